"""The hook that was there runs as before: under its own name, beside its neighbours, whatever it is written in."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support.hook_world import ENTRY, World, install, uninstall

# Each says its name, and reads `neighbour` beside itself in the way of its language.
SCRIPTS = {
    "sh": '#!/bin/sh\necho "${0##*/}"; cat "$(dirname "$0")/neighbour"\n',
    "sh without an interpreter line": 'echo "${0##*/}"; cat "$(dirname "$0")/neighbour"\n',
    "bash by env -S": '#!/usr/bin/env -S bash -eu\necho "${0##*/}"; cat "${0%/*}/neighbour"\n',
    "bash by BASH_SOURCE": '#!/bin/bash -e\nname=${BASH_SOURCE[0]##*/}; echo "$name"; cat "$(dirname "${BASH_SOURCE[0]}")/neighbour"\n',
    "bash from the real path": '#!/usr/bin/env bash\necho "${0##*/}"; cat "$(dirname "$(realpath "$0")")/neighbour"\n',
    "bash from the tree": '#!/bin/bash\necho "${0##*/}"; cd "$(dirname "$0")/../.." || exit 7; [ -d .git ] && cat .git/hooks/neighbour\n',
    "python by argv": f"#!{sys.executable}\nimport os, sys\nprint(os.path.basename(sys.argv[0]))\nprint(open(os.path.join(os.path.dirname(sys.argv[0]), 'neighbour')).read(), end='')\n",
    "python by __file__": f"#!{sys.executable}\nfrom pathlib import Path\nprint(Path(__file__).name)\nprint(Path(__file__).resolve().with_name('neighbour').read_text(), end='')\n",
    "python by import": f"#!{sys.executable} -B\nimport sys\nfrom module import text\nprint(sys.argv[0].split('/')[-1])\nprint(text, end='')\n",
    "perl": '#!/usr/bin/env perl\nuse FindBin; print "$FindBin::Script\\n"; open my $f, "<", "$FindBin::Bin/neighbour" or die; print <$f>;\n',
    "node": "#!/usr/bin/env node\nconst p = require('path'), fs = require('fs');\nconsole.log(p.basename(process.argv[1]));\nprocess.stdout.write(fs.readFileSync(p.join(__dirname, 'neighbour')));\n",
    "a folder of its own name": '#!/bin/sh\nexec "$0.d/step"\n',
}
SAID = "pre-commit\nfrom the neighbour\n"
# As overcommit's hooks: one script under every name, which asks for the name that it was called by. There is no ruby here.
TEMPLATE = f"#!{sys.executable}\nimport os, sys\nname = os.path.basename(sys.argv[0])\nif name == 'overcommit-hook':\n    sys.exit(64)\nprint(name, file=sys.stderr)\n"


def with_neighbours(world: World) -> None:
    (world.hooks / "neighbour").write_text("from the neighbour\n")
    (world.hooks / "module.py").write_text("text = 'from the neighbour\\n'\n")
    steps = world.hooks / "pre-commit.d"
    steps.mkdir()
    (steps / "step").write_text("#!/bin/sh\necho pre-commit; cat .git/hooks/neighbour\n")
    (steps / "step").chmod(0o755)


def outcome_of(answer: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return answer.returncode, answer.stdout, answer.stderr


@pytest.mark.parametrize("alone", [False, True], ids=["with us", "when our code is gone"])
@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_hook_keeps_its_name_and_its_neighbours(world: World, kind: str, alone: bool) -> None:
    with_neighbours(world)
    world.add_hook("pre-commit", SCRIPTS[kind])
    plain = world.commit()
    install(world)
    if alone:
        shim = world.hooks / "pre-commit"
        shim.write_text(shim.read_text().replace("entry.py", "gone.py"))
    assert outcome_of(world.commit()) == outcome_of(plain)
    assert (plain.returncode, plain.stdout + plain.stderr) == (0, SAID)
    uninstall(world, "--purge")
    assert outcome_of(world.commit()) == outcome_of(plain)


def test_a_compiled_hook_keeps_its_name(world: World) -> None:
    # A shell is a compiled program; this one is asked for its name by the file that it reads at its start.
    shutil.copy("/bin/bash", world.hooks / "pre-commit")
    (world.home / "start").write_text('echo "${0##*/}" >&2\n')
    world.env["BASH_ENV"] = str(world.home / "start")
    plain = world.commit()
    install(world)
    assert outcome_of(world.commit()) == outcome_of(plain) == (0, "", "pre-commit\n")


def test_a_hook_that_is_a_link_into_the_tree_leads_there(world: World) -> None:
    scripts = world.repo / "scripts"
    scripts.mkdir()
    (scripts / "library").write_text("echo from the library >&2\n")
    (scripts / "check").write_text('#!/bin/bash\necho "${0##*/}" >&2; . "$(dirname "$(readlink -f "$0")")/library"\n')
    (scripts / "check").chmod(0o755)
    (world.hooks / "pre-commit").symlink_to("../../scripts/check")
    plain = world.commit()
    install(world)
    assert outcome_of(world.commit()) == outcome_of(plain) == (0, "", "pre-commit\nfrom the library\n")


def test_hooks_that_are_links_to_one_script_are_called_by_their_names(world: World) -> None:
    (world.add_hook("overcommit-hook", TEMPLATE)).chmod(0o755)
    for name in ("pre-commit", "commit-msg", "pre-push"):
        (world.hooks / name).symlink_to("overcommit-hook")
    install(world)
    assert outcome_of(world.commit()) == (0, "", "pre-commit\ncommit-msg\n")
    # A new release of the tool replaces its script.
    (world.hooks / "overcommit-hook").write_text(TEMPLATE.replace("print(name", "print('new', name"))
    assert outcome_of(world.commit()) == (0, "", "new pre-commit\nnew commit-msg\n")


def test_a_neighbour_that_comes_later_is_found(world: World) -> None:
    world.add_hook("pre-commit", '#!/bin/sh\n. "$(dirname "$0")/later.sh"\n')
    install(world)
    assert world.commit().returncode == 1
    (world.hooks / "later.sh").write_text("echo later >&2\n")
    assert outcome_of(world.commit()) == (0, "", "later\n")
    uninstall(world, "--purge")
    assert (world.hooks / "later.sh").read_text() == "echo later >&2\n"


def test_files_that_a_hook_writes_beside_itself_are_where_they_would_have_been_after_uninstalling(world: World) -> None:
    (world.hooks / "state").write_text("old\n")
    world.add_hook(
        "pre-commit", '#!/bin/sh\ncd "$(dirname "$0")"; echo new >log; rm state; echo new >state; mkdir -p cache/x\n'
    )
    install(world)
    assert world.commit().returncode == 0
    uninstall(world, "--purge")
    assert (world.hooks / "log").read_text() == (world.hooks / "state").read_text() == "new\n"
    assert (world.hooks / "cache" / "x").is_dir()
    assert list(world.repo.glob(".git/*opskpi*")) == []


def test_a_hook_that_git_passes_over_is_passed_over_in_gits_words(world: World) -> None:
    world.add_hook("pre-commit", "#!/bin/sh\nexit 1\n", 0o644)
    plain = world.commit()
    install(world)
    assert outcome_of(world.commit()) == outcome_of(plain)
    assert "not set as executable" in plain.stderr


def test_hooks_in_a_linked_worktree_keep_their_names(world: World) -> None:
    with_neighbours(world)
    world.add_hook("pre-commit", SCRIPTS["sh"])
    world.commit()
    install(world)
    world.git("worktree", "add", "-q", world.home / "linked")
    answer = world.commit(cwd=world.home / "linked")
    assert (answer.returncode, answer.stdout + answer.stderr) == (0, SAID)


PREVIOUS_SHIM = """\
#!/bin/sh
# opskpi hook shim 0123456789abcdef: reports what the hook beside it does, see `opskpi hook --help`.
# The hook itself is @NAME@.opskpi-original; `opskpi hook uninstall` puts it back.
[ -x "$0.opskpi-original" ] || exit 0
exec @PYTHON@ -I -S @ENTRY@ hook @NAME@ "$0.opskpi-original" '' "$@"
"""


def installed_by_previous_release(world: World) -> None:
    """Put in place what the release before the folder of the originals left."""
    for name in ("pre-commit", "pre-push", "post-commit"):
        text = PREVIOUS_SHIM.replace("@NAME@", name).replace("@PYTHON@", sys.executable).replace("@ENTRY@", str(ENTRY))
        unmarked = text.replace("0123456789abcdef", "@CHECKSUM@")
        world.add_hook(name, text.replace("0123456789abcdef", hashlib.sha256(unmarked.encode()).hexdigest()[:16]))
    world.add_hook("pre-commit.opskpi-original", "#!/bin/sh\necho mine >&2\n", 0o750)
    noted = {
        "folders": {str(world.hooks): False},
        "excluded": {str(world.hooks): "/.sentinel/\n"},
        "made_info": False,
        "made_exclude": False,
    }
    (world.repo / ".git" / "opskpi-installed.json").write_text(json.dumps(noted))
    exclude = world.repo / ".git" / "info" / "exclude"
    exclude.write_text(exclude.read_text() + "/.sentinel/\n")


@pytest.mark.parametrize("installed_again", [True, False])
def test_hooks_of_the_previous_release_are_taken_over_and_taken_away(world: World, installed_again: bool) -> None:
    exclude = (world.repo / ".git" / "info" / "exclude").read_bytes()
    installed_by_previous_release(world)
    assert outcome_of(world.commit()) == (0, "", "mine\n")
    if installed_again:
        install(world)
        assert not os.path.lexists(world.hooks / "pre-commit.opskpi-original")
        assert outcome_of(world.commit()) == (0, "", "mine\n")
    assert {metrics["result"] for metrics in world.metrics()} == {"allowed"}
    uninstall(world, "--purge")
    hooks = [path.name for path in world.hooks.iterdir() if not path.name.endswith(".sample")]
    assert hooks == ["pre-commit"]
    assert (world.hooks / "pre-commit").read_text() == "#!/bin/sh\necho mine >&2\n"
    assert stat.S_IMODE((world.hooks / "pre-commit").stat().st_mode) == 0o750
    assert (world.repo / ".git" / "info" / "exclude").read_bytes() == exclude
    assert list(Path(world.repo, ".git").glob("*opskpi*")) == []
