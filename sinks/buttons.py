"""The buttons under a message on Slack and Discord, whose presses come back to the edge (edge/callbacks). Pure.

They are there only when the edge can verify a press: a button that nobody answers shows the reader an error.
"""

from core.engagement import LIKE, MOST, Button, write_button
from core.rendering.model import AlertMessage, Issue
from sinks.provider import Message


def publications_of(content: Issue | AlertMessage) -> list[str]:
    """Return the publications that a message is about, in its order."""
    if isinstance(content, Issue):
        return [item.content.publication_id for item in content.items]
    return [content.publication_id] if content.publication_id else []


def buttons_of(message: Message) -> list[tuple[str, str]]:
    """Return label and value of each button: one a publication, numbered when there are several, at most MOST."""
    delivery, publications = message.delivery, publications_of(message.content)
    return [
        (
            "👍" if len(publications) == 1 else f"👍 {number}",
            write_button(Button(LIKE, delivery.subscriber_id, delivery.delivery_id, publication_id)),
        )
        for number, publication_id in enumerate(publications[:MOST], 1)
    ]
