"""`opskpi`, and `python -m opskpi`: what a hook calls goes the short way, all else to the commands."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and end the process with one of the exit codes of `errors.ExitCode`.

    `opskpi hook wrap --hook-type TYPE -- CMD…` runs CMD before click, psycopg and the rest are imported.
    """
    match sys.argv[1:]:
        case ["hook", "wrap", "--hook-type", hook_type, "--", _, *_] as arguments:
            _wrap(hook_type, arguments[5:])
        case ["hook", "wrap", option, "--", _, *_] as arguments if option.startswith("--hook-type="):
            _wrap(option.removeprefix("--hook-type="), arguments[4:])
    return _command_line()


def _command_line() -> NoReturn:
    import atexit  # noqa: PLC0415 - a hook needs none of these
    import gc  # noqa: PLC0415

    # Modules live until the process ends, so the collector finds no garbage among them; looking for it took a fifth of
    # the time of a short command. The collector is enabled again when a command begins.
    gc.disable()
    atexit.register(gc.freeze)
    from opskpi.commands.main import main as commands  # noqa: PLC0415

    return commands()


def _wrap(hook_type: str, command: list[str]) -> NoReturn:
    from opskpi.hooks import wrapping  # noqa: PLC0415

    wrapping.run_and_exit(hook_type, command)


if __name__ == "__main__":
    main()
