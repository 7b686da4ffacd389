"""A message in Slack's own markup, within what Slack accepts and without anything a user's text could trigger."""

import json
from collections.abc import Mapping

from opskpi.alerting import messages
from opskpi.alerting.channels.posting import post
from opskpi.alerting.channels.settings import Setting
from opskpi.alerting.messages import Message, Section
from opskpi.alerting.outcomes import Delivery, Outcome
from opskpi.alerting.summaries import Part
from opskpi.outbound.limits import Timeouts

# Slack refuses a section above 3,000 characters, more than 50 blocks and, without saying so, 13,200 characters in all:
# https://github.com/slackapi/bolt-js/issues/2509
SECTION_LIMIT = 3000
BLOCKS_LIMIT = 50
TOTAL_LIMIT = 10000
BLOCK_OVERHEAD = 80
# Four parts of a summary fit into one message.
PART_LIMIT = 2200
ADDRESS = "URL of an incoming webhook of Slack"
SETTINGS: tuple[Setting, ...] = ()
ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "'"})


def send(delivery: Delivery, environ: Mapping[str, str], timeouts: Timeouts) -> Outcome:
    """Post to the incoming webhook whose address `secret_env` names."""
    body = json.dumps(payload(delivery.message)).encode("ascii")
    return post(delivery, environ, timeouts, body, {})


def payload(message: Message) -> dict[str, object]:
    """What an incoming webhook takes: `text` for notifications and `blocks`, one an alert, those that page first.

    Of a summary they are its parts. What does not fit is counted in a last line, "and N more".
    """
    banner = escape(messages.banner(message))
    firing, over = messages.sections(message)
    texts = [
        f"*{banner}*",
        *(_section(section) for section in (*firing, *over)),
        *map(_part, messages.parts(message)),
    ]
    if len(texts) == 1:
        texts.append(escape(messages.text(message).partition("\n")[2].strip()) or "It names no alert.")
    shown = _fitting(texts)
    if shown < len(texts):
        texts[shown:] = [f"and {len(texts) - shown} more"]
    if address := messages.link(message):
        texts.append(f"<{escape(address)}|Open>")
    return {
        "text": escape(messages.title(message)),
        "blocks": [_block(text) for text in texts],
        "unfurl_links": False,
        "unfurl_media": False,
    }


def escape(text: str) -> str:
    """The text as Slack shows it literally: no mention, link or code span can come of it."""
    return text.translate(ESCAPES)


def _section(section: Section) -> str:
    lines = [f"*{escape(section.badge)}:* {escape(section.heading)}", *(escape(fact) for fact in section.facts)]
    if section.command:
        lines.append(f"`{escape(section.command)}`")
    kept, length = [], 0
    for line in lines:
        length += len(line) + 1
        # A cut inside a line could leave half an entity, or a code span open.
        if length > SECTION_LIMIT:
            break
        kept.append(line)
    return "\n".join(kept)


def _part(part: Part) -> str:
    lines = [f"*{escape(part.heading)}*"]
    length = len(lines[0])
    for line in part.lines:
        length += len(escape(line)) + 1
        if length > PART_LIMIT:
            break
        lines.append(escape(line))
    more = part.left_out + len(part.lines) - (len(lines) - 1)
    return "\n".join([*lines, f"and {more} more"] if more else lines)


def _fitting(texts: list[str]) -> int:
    """How many of the texts fit into one message, with room for a last line and a link."""
    used = 0
    for position, text in enumerate(texts[: BLOCKS_LIMIT - 2]):
        used += len(text) + BLOCK_OVERHEAD
        if used > TOTAL_LIMIT:
            return position
    return min(len(texts), BLOCKS_LIMIT - 2)


def _block(text: str) -> dict[str, object]:
    # Without `verbatim`, Slack turns @channel, #names and addresses of its own accord into mentions and links.
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}
