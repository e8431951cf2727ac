"""What each channel shows, as files that can be read and opened: a change of it is seen in them.

`NEWSWIRE_GOLDEN=write .venv/bin/python -m pytest tests/unit/test_rendering_golden.py` writes them anew; look at them then.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from core.rendering import discord, slack, webhook
from core.rendering.catalogue import SHIPPED
from core.rendering.email import EmailLayout, alert_email, newsletter_email
from tests.rendering_samples import PUBLISHED, alert, real_issue

FOLDER = Path(__file__).parent.parent / "golden"
WRITE = os.environ.get("NEWSWIRE_GOLDEN") == "write"
ADDRESS = "1 Example Street, Berlin"


def mail(message: EmailLayout) -> dict[str, str]:
    return {"html": message.html.replace("><", ">\n<") + "\n", "txt": f"Subject: {message.subject}\n\n{message.text}"}


def document(value: Any) -> dict[str, str]:
    return {"json": json.dumps(value, ensure_ascii=False, indent=2) + "\n"}


def rendered(language: str) -> dict[str, dict[str, str]]:
    """Return the files of a language by name and suffix."""
    issue, urgent = real_issue(language), alert(language=language, postal_address=ADDRESS)
    payload = webhook.newsletter_payload(issue, delivery_id=issue.delivery_id, source_id="daily@x", timestamp=PUBLISHED)
    return {
        **{f"email-{name}": mail(newsletter_email(real_issue(language, template=one))) for name, one in SHIPPED.items()},
        "email-alert": mail(alert_email(urgent)),
        "slack-newsletter": document(slack.newsletter_blocks(issue)),
        "slack-alert": document(slack.alert_blocks(urgent)),
        "discord-newsletter": document(discord.newsletter_embeds(issue)),
        "discord-alert": document(discord.alert_embeds(urgent)),
        "webhook-newsletter": document(json.loads(payload)),
    }


@pytest.mark.parametrize("language", ["en", "de"])
def test_every_channel_shows_what_its_file_says(language: str) -> None:
    """Byte for byte, in both languages."""
    made = {f"{name}.{language}.{suffix}": text for name, files in rendered(language).items() for suffix, text in files.items()}
    if WRITE:
        for name, text in made.items():
            (FOLDER / name).write_text(text, encoding="utf-8")
    for name, text in made.items():
        assert text == (FOLDER / name).read_text(encoding="utf-8"), f"{name}: see this module's first lines"


def test_no_golden_file_is_left_over() -> None:
    """A file that nothing writes any more would show what no reader sees."""
    made = {f"{name}.{lang}.{suffix}" for lang in ("en", "de") for name, files in rendered(lang).items() for suffix in files}
    assert {path.name for path in FOLDER.iterdir()} == made
