"""The pieces of sh that our hooks are made of, in which `shims` replaces the words between @ signs."""

START = """\
#!/bin/sh
@SIGNATURE@ @CHECKSUM@: runs the hook and reports its result, see `opskpi hook --help`.
# The hook itself is opskpi-original/@NAME@; `opskpi hook uninstall` puts it back.
python=@PYTHON@
entry=@ENTRY@
wrapped=@WRAPPED@
case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
above=${here%/*}
if [ "$above" = "$here" ] || [ -L "$here" ]; then above=$here/..; fi
kept=
# A tool may have put us into a folder below that of the hooks, which has our link. Further up from elsewhere is a
# working tree, and what lies there may have come with a clone.
for place in "$above" "$here/../.."; do
  if [ -d "$place/"@BASE@'@FOLDER_ENDING@' ]; then
    kept=$place/@BASE@'@FOLDER_ENDING@'
    hooks=$place/@BASE@
    break
  fi
  [ -L "$here/../@POINTER@" ] || break
done
if [ -z "$kept" ]; then
  if [ -n "$wrapped" ]; then
    echo 'opskpi: the @NAME@ hook that was here is gone, only ours was copied: `opskpi hook install` looks for it' >&2
  fi
  exit 0
fi
original=$kept/@NAME@
# A file that was put beside the hooks since then is also beside the original.
if [ "$hooks" -nt "$kept" ] 2>/dev/null; then
  for file in "$hooks"/* "$hooks"/.[!.]*; do
    name=${file##*/}
    case $name in @NAMES@ | *opskpi-*) continue ;; esac
    if [ -e "$file" ] && ! [ -e "$kept/$name" ]; then ln -s ../@BASE@/"$name" "$kept/$name" 2>/dev/null; fi
  done
fi
"""

# A tool that takes over our place may keep us under another name, such as NAME.legacy, and run us from its own hook.
REPORTING = """\
action=run
case $original in /*) full=$original ;; *) full=$PWD/$original ;; esac
if [ "${0##*/}" != @NAME@ ]; then
  action=chained
  @MARK@
elif [ "$full" -ef "${OPSKPI_HOOK_RUNNING#@NAME@ }" ] 2>/dev/null; then
  # Called by the hook that it runs, and not by another git which that one started.
  parent=git
  if [ -r "/proc/$PPID/comm" ]; then read -r parent 2>/dev/null <"/proc/$PPID/comm"; fi
  case $parent in git*) ;; *) exit 0 ;; esac
fi
[ -x "$original" ] || exit 0
export OPSKPI_HOOK_RUNNING="@NAME@ $full"
if [ -x "$python" ] && [ -f "$entry" ]; then
  exec "$python" -I -S "$entry" "$action" @NAME@ "$original" "$@"
fi
"""

_GIT_DIR = """\
dir=${GIT_DIR:-.git}
if [ -f "$dir" ]; then read -r _ dir 2>/dev/null <"$dir"; fi
"""

# The tool that runs us under another name is a child of git, so git is our grandparent.
MARK = _GIT_DIR.replace("\n", "\n  ") + 'ps -o ppid= -p "$PPID" 2>/dev/null >"$dir/@MARKER@"'

# Only what sh has built in, until a commit came here without its pre-commit hook. Where GIT_REFLOG_ACTION or a missing
# `tail` hides what the commit was, the slower look decides.
AFTER_COMMIT = (
    _GIT_DIR
    + """\
ran=
if [ -f "$dir/@MARKER@" ]; then
  read -r ran 2>/dev/null <"$dir/@MARKER@"
  # Used up: where the ids of processes repeat, the next commit may have the same. `:` would end sh where it fails.
  true 2>/dev/null >"$dir/@MARKER@"
fi
if [ "$ran" != "$PPID" ] && [ -f "$dir/logs/HEAD" ] && [ -x "$python" ] && [ -f "$entry" ]; then
  last=$(tail -n 1 "$dir/logs/HEAD" 2>/dev/null) || last='@TAB@commit: '
  asked=
  case ${GIT_REFLOG_ACTION:-} in
    '' | rebase* | cherry-pick* | revert* | merge* | pull* | am*) ;;
    *)
      asked=$(ps -o args= -p "$PPID" 2>/dev/null) || asked='git commit'
      last='@TAB@commit: '
      ;;
  esac
  case $last in
    *"@TAB@commit: "* | *"@TAB@commit (amend): "* | *"@TAB@commit (initial): "* | \\
      *"@TAB@commit (merge): "* | *"@TAB@commit (cherry-pick): "*)
      "$python" -I -S "$entry" bypassed "${0%/*}" "$asked" </dev/null >/dev/null 2>&1 &
      ;;
  esac
fi
[ -x "$original" ] || exit 0
"""
)

ALONE = """\
exec "$original" "$@"
"""
