"""What the installed hooks and the detached sender start with: `python -I -S entry.py ACTION …`."""

import sys

# Isolated and, for the hooks, without site: neither the environment nor the working directory says what is imported.
# After the standard library, so that nothing beside us stands in for it; before other copies of this package.
_OURS = __file__.rsplit("/", 3)[0]
_PLACES = [place for place, path in enumerate(sys.path) if path.endswith("-packages")]
sys.path.insert(_PLACES[0] if _PLACES else len(sys.path), _OURS)


def _run_alone(action: str = "", _hook_type: str = "", *command: str) -> None:
    """Become the command: an installation that is half there, as during an upgrade, must not refuse a commit."""
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415

    if action not in {"run", "chained", "wrap"} or not command:
        return
    # A signal that Python ignores would stay ignored.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError:
        # A script without a first line that names its interpreter.
        os.execv("/bin/sh", ["sh", *command])  # noqa: S606


if __name__ == "__main__":
    try:
        try:
            from opskpi.hooks.actions import main
        except Exception:
            _run_alone(*sys.argv[1:])
            raise
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
