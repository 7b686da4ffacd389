"""What the installed hooks and the detached sender start with: `python -I -S entry.py ACTION …`."""

import sys

# Isolated and, for the hooks, without site: neither the environment nor the working directory says what is imported.
# After the standard library, so that nothing beside us stands in for it; before other copies of this package.
_OURS = __file__.rsplit("/", 3)[0]
_PLACES = [place for place, path in enumerate(sys.path) if path.endswith("-packages")]
sys.path.insert(_PLACES[0] if _PLACES else len(sys.path), _OURS)

if __name__ == "__main__":
    try:
        from opskpi.hooks.actions import main

        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
