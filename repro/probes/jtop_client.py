"""The process that speaks to the jtop service, apart from the kit: it alone imports jetson-stats.

Not imported by anything. It runs under whatever Python has jetson-stats (3.6 and later, with nothing of
the kit), and prints JSON lines: one `hello`, then one `sample` for each tick of the service, or `absent`
with state and reason. It only ever reads: the properties of `nvpmodel` and `jetson_clocks` have setters
that would change the board. It ends when its standard input closes.
"""

# ruff: noqa: UP006, UP032, UP035 - it runs under older versions of Python than the kit does
import json
import os
import sys
import threading
from typing import Any, Dict, List

INTERVAL_S = 1.0  # Asked for, and had only where no other client came first: it is one for all.
SUPPORTED = "4.3 and 7"
LOST = "the connection to the jtop service was lost"


def main() -> None:
    """Print what the service says until it or the kit is gone."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Libraries print to standard output.

    def tell(message: Dict[str, Any]) -> None:
        out.write(json.dumps(message, default=str) + "\n")
        out.flush()

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The folder of this file has a module of the same name as the package.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    try:
        import jtop as package
    except ImportError:
        tell({"absent": ["unsupported", "jetson-stats is not installed for {}".format(sys.executable)]})
        return
    version = str(getattr(package, "__version__", ""))
    if not supported(version):
        reason = "jetson-stats {} is not supported; {} are".format(version or "unknown", SUPPORTED)
        tell({"absent": ["unsupported", reason]})
        return
    try:
        with package.jtop(interval=INTERVAL_S) as service:
            greeted = False
            while service.ok():
                if not greeted:
                    tell({"hello": _hello(service, version)})
                    greeted = True
                tell({"sample": _sample(service)})
            tell({"absent": ["missed", "the service fell silent"]})
    except package.JtopException as error:
        tell({"absent": why(str(error))})
    except (EOFError, OSError):  # The service may go between two of jtop's own looks at it.
        tell({"absent": ["missed", LOST]})
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in there is only a missed reading
        tell({"absent": ["missed", "{}: {}".format(type(error).__name__, error).split("\n")[0][:200]]})


def supported(version: str) -> bool:
    """Tell whether this version of jetson-stats is one that the mapping was tried with."""
    return version.split(".")[:2] == ["4", "3"] or version.split(".")[0] == "7"


def why(message: str) -> List[str]:
    """Return state and reason for a message of jtop's."""
    first = message.split("\n")[0]
    if "Mismatch version" in message:
        return ["unsupported", first.replace("Please run:", "").strip().rstrip(".")]
    if "not active" in message:
        return ["unsupported", "the jtop service does not answer"]
    if "can't access" in message:
        return ["denied", "no permission for the jtop service (not in its group)"]
    return ["missed", LOST if "Lost connection" in message else first[:200]]


def _end_with_parent() -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    os._exit(0)


def _hello(service: Any, version: str) -> Dict[str, Any]:
    hardware = service.board["hardware"]
    wanted = ("Model", "Module", "SoC", "L4T", "Jetpack")
    return {
        "version": version,
        # What the service keeps to, which is not what this client asked for.
        "interval": service.interval,
        "hardware": {key: hardware[key] for key in wanted if hardware.get(key)},
    }


def _sample(service: Any) -> Dict[str, Any]:
    mode, clocks = service.nvpmodel, service.jetson_clocks
    return {
        "gpu": dict(service.gpu.items()),
        "emc": dict(service.memory.items()).get("EMC"),
        "cpu": [{"online": c.get("online"), "freq": c.get("freq")} for c in service.cpu["cpu"]],
        "power": service.power,
        "temperature": service.temperature,
        "fan": dict(service.fan.items()),
        "power_mode": None if mode is None else mode.name,
        "jetson_clocks": None if clocks is None else bool(clocks),
    }


if __name__ == "__main__":
    main()
    os._exit(0)
