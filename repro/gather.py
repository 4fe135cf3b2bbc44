"""From a work folder to a bundle to be: records made fit to publish, with everything behind them.

A work folder holds all that this needs, so that a run which could not seal is not lost: its records are
made from what its worker had written down.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro import backends, bundle, records
from repro.bundle import leaks, privacy
from repro.bundle.logs import keep
from repro.claims import derived
from repro.plan import Said, kit, read_job, to_json
from repro.probes.host import boot_id
from repro.schema import Job, Log, Predicate, Record, RecordEntry, ResolvedCase, Sealing

NAMED_VARIANTS = 4
"""Up to so many variants stand in the file's name."""

MAX_WHOLE_LOG_BYTES = 16 * 2**20
"""What `--keep-log` keeps of the first build's log, from its beginning."""


class Prepared(NamedTuple):
    """A bundle to be: everything but its signature."""

    folder: Path
    stem: str
    files: dict[str, bytes]
    predicate: Predicate
    records: tuple[Record, ...]
    redactions: int
    hits: tuple[leaks.Hit, ...]
    """What looks like a secret and was not allowed by name."""

    def listed(self) -> dict[str, bytes]:
        """Return everything that would leave the machine, as far as it stands before signing."""
        return bundle.unsigned(self.files, self.predicate)


def prepare(
    folder: Path, lost: str | None, allowed: tuple[str, ...] = (), *, at_once: bool = True
) -> Prepared:
    """Gather the files of a bundle from a work folder, made fit to publish and looked through for secrets."""
    begin = time.perf_counter_ns()
    job, said = read_job(folder / "job")
    out = folder / "out"
    gathered = gather(job, out, lost, failed=at_once)
    found, files, redactions = publish(job, said, gathered, out)
    files |= {f"telemetry/{path.name}": path.read_bytes() for path in sorted((out / "telemetry").iterdir())}
    for record in found:
        home = f"records/{record.record_name}"
        for part in (folder / "job" / home / "case", out / home / "samples", out / home / "layers"):
            files |= {
                f"{home}/{part.name}/{path.name}": path.read_bytes()
                for path in sorted(part.glob("*"))
                if record.case.share != "none" or path.suffix != ".onnx"
            }
        # Of a private case, the record's digest is a pseudonym by now.
        resolved = msgspec.json.decode(files[f"{home}/case/case.json"], type=ResolvedCase)
        files[f"{home}/case/case.json"] = to_json(msgspec.structs.replace(resolved, case=record.case))
        spent = {**record.overhead_ns, "gather": time.perf_counter_ns() - begin}
        files[f"{home}/record.json"] = to_json(msgspec.structs.replace(record, overhead_ns=spent))
    created = datetime.datetime.now(datetime.timezone.utc)
    predicate = Predicate(
        kit=kit(),
        created_utc=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        sealed=when(said, gathered, at_once=at_once),
        signer_role="reporter",
        records=tuple(RecordEntry(r.record_name, r.role, r.status) for r in found),
        claims=(*derived(found), *said.claims),
        references=said.references,
        parent_bundle_id=job.parent,
        ticket=None,
        allowed_findings=allowed,
    )
    variants = [*dict.fromkeys(r.case.variant for r in found if r.case.variant)]
    if len(variants) > NAMED_VARIANTS:
        variants = [f"{len(variants)}-variants"]
    name = "-".join([found[0].case.id, *variants])
    stem = f"{name}_{job.device}_{job.release}_{created:%Y%m%dT%H%M%SZ}"
    claims = {"META/statement.json": to_json(predicate)}
    hits = tuple(leaks.not_allowed(leaks.scan({**files, **claims}), allowed))
    return Prepared(folder, stem, files, predicate, found, redactions, hits)


def left(folder: Path, allowed: tuple[str, ...] = (), lost: str | None = None) -> Prepared:
    """Prepare a work folder whose run has ended, in whatever way; `lost` is what is known of that."""
    return prepare(folder, lost or "the kit was ended before it sealed this", allowed, at_once=False)


def gather(job: Job, out: Path, lost: str | None, *, failed: bool) -> tuple[Record, ...]:
    """Return the records that the worker wrote, or make them from what it left.

    `lost` says how the worker ended, and `failed` whether that is a failure of the experiment.
    """
    written = records.read(job, out)
    if written is not None:
        return written
    return records.recover(job, out, lost or "the worker ended early", failed=failed)


def publish(
    job: Job, said: Said, found: tuple[Record, ...], out: Path
) -> tuple[tuple[Record, ...], dict[str, bytes], int]:
    """Return the records and logs as they may leave the machine, and how many values were taken out."""
    private = (*said.private, *privacy.private_values(), *privacy.of_records(found))
    redactor = privacy.Redactor(private)
    grammar = backends.load(job.backend).LOG_LINES
    files: dict[str, bytes] = {}
    published = []
    in_logs = 0
    for record in found:
        logs = []
        for path in sorted((out / "records" / record.record_name / "logs").iterdir()):
            before = redactor.count
            text, lines, kept = keep(path.read_text(errors="replace"), grammar, redactor)
            in_logs += redactor.count - before
            name = f"records/{record.record_name}/logs/{path.name}" if kept else None
            if name:
                files[name] = text.encode()
            logs.append(Log(path.stem, lines, kept, name))
        whole = records.engine_home(out, record.record_name, 0) / "build.log"
        if job.keep_log and whole.is_file():
            before = redactor.count
            with whole.open("rb") as file:
                text = redactor.text(file.read(MAX_WHOLE_LOG_BYTES).decode(errors="replace"))
            in_logs += redactor.count - before
            name = f"records/{record.record_name}/logs/b0.whole.txt"
            files[name] = text.encode()
            logs.append(Log("b0.whole", text.count("\n"), text.count("\n"), name))
        public = privacy.publish(record, privacy.of_machine(), redactor)
        published.append(msgspec.structs.replace(public, logs=tuple(logs)))
    hidden = sum(record.privacy.redactions for record in published if record.privacy)
    return tuple(published), files, hidden + in_logs


def when(said: Said, found: tuple[Record, ...], *, at_once: bool) -> Sealing:
    """Return how far from the measuring the sealing is."""
    if said.machine != privacy.of_machine().key_id:
        return "elsewhere"
    if found[0].boot != boot_id():
        return "after_reboot"
    return "at_once" if at_once else "later"
