"""Write the schema files of the package."""

from repro.schemas import FILES, FOLDER, text

for name, kind in FILES.items():
    (FOLDER / name).write_text(text(kind), encoding="utf-8")
