"""The words of the unsubscribe page in each language that there is, and which language a browser asks for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PageText:
    """One language; {name} is the newsletter's."""

    locale: str
    unsubscribe: str
    from_newsletter: str
    from_alerts: str
    intro_newsletter: str
    intro_alerts: str
    choose: str
    this_newsletter: str
    this_newsletter_hint: str
    alerts: str
    alerts_hint: str
    everything: str
    everything_hint: str
    button: str
    nothing_yet: str
    done: str
    done_newsletter: str
    done_alerts: str
    done_all: str
    on_its_way: str
    also_all: str
    try_again: str
    problems: dict[str, tuple[str, tuple[str, ...]]]


_ASK = "Use the unsubscribe link of a newer message, or reply to any of our messages and ask us to remove you."

ENGLISH = PageText(
    locale="en",
    unsubscribe="Unsubscribe",
    from_newsletter="Unsubscribe from {name}?",
    from_alerts="Stop alerts?",
    intro_newsletter="This link was sent to a subscriber of {name}.",
    intro_alerts="This link was sent to a subscriber who gets alerts.",
    choose="What should stop?",
    this_newsletter="{name}",
    this_newsletter_hint="Only this newsletter",
    alerts="Alerts",
    alerts_hint="Newsletters go on",
    everything="Everything",
    everything_hint="All newsletters and alerts, on every channel",
    button="Unsubscribe",
    nothing_yet="Nothing changes before you press the button. If you have unsubscribed already, that still holds.",
    done="You are unsubscribed",
    done_newsletter="You will not get {name} any more.",
    done_alerts="You will not get alerts any more.",
    done_all="You will not get any newsletters or alerts any more.",
    on_its_way="A message that was sent in the last seconds may still arrive.",
    also_all="Unsubscribe from everything else too",
    try_again="Try again",
    problems={
        "expired": ("This link has expired", ("Unsubscribe links work for 90 days.", _ASK)),
        "invalid": ("This link is not valid", ("It may have been cut off or changed on its way.", _ASK)),
        "bad_form": (
            "Nothing was changed",
            ("The request did not say what to unsubscribe from. Open the link again and press the button.",),
        ),
        "too_large": ("Nothing was changed", ("The request was too large. Open the link again and press the button.",)),
        "too_slow": ("Nothing was changed", ("The request did not arrive in time. Please try again.",)),
        "unavailable": (
            "Not unsubscribed yet",
            ("We cannot record it at the moment, so we do not want to say that it is done. Please try again in a minute.",),
        ),
        "not_found": ("There is nothing here", ("Open the unsubscribe link from one of our messages.",)),
        "not_allowed": ("Nothing was changed", ("This address takes an unsubscribe link only as it stands in our messages.",)),
    },
)

_BITTE = (
    "Nimm den Abbestell-Link einer neueren Nachricht, oder antworte auf eine unserer Nachrichten und bitte uns, dich auszutragen."
)

GERMAN = PageText(
    locale="de",
    unsubscribe="Abbestellen",
    from_newsletter="{name} abbestellen?",
    from_alerts="Keine Eilmeldungen mehr?",
    intro_newsletter="Dieser Link ging an jemanden, der {name} abonniert hat.",
    intro_alerts="Dieser Link ging an jemanden, der Eilmeldungen bekommt.",
    choose="Was soll aufhören?",
    this_newsletter="{name}",
    this_newsletter_hint="Nur dieser Newsletter",
    alerts="Eilmeldungen",
    alerts_hint="Newsletter kommen weiterhin",
    everything="Alles",
    everything_hint="Alle Newsletter und Eilmeldungen, auf jedem Weg",
    button="Abbestellen",
    nothing_yet="Bevor du den Knopf drückst, ändert sich nichts. Hast du schon abbestellt, dann gilt das weiterhin.",
    done="Du bist abgemeldet",
    done_newsletter="Du bekommst {name} nicht mehr.",
    done_alerts="Du bekommst keine Eilmeldungen mehr.",
    done_all="Du bekommst keine Newsletter und Eilmeldungen mehr.",
    on_its_way="Was in den letzten Sekunden verschickt wurde, kann noch ankommen.",
    also_all="Auch alles andere abbestellen",
    try_again="Noch einmal versuchen",
    problems={
        "expired": ("Dieser Link ist abgelaufen", ("Abbestell-Links gelten 90 Tage.", _BITTE)),
        "invalid": ("Dieser Link ist ungültig", ("Vielleicht wurde er unterwegs abgeschnitten oder verändert.", _BITTE)),
        "bad_form": (
            "Es wurde nichts geändert",
            ("Die Anfrage sagt nicht, was abbestellt werden soll. Öffne den Link noch einmal und drücke den Knopf.",),
        ),
        "too_large": ("Es wurde nichts geändert", ("Die Anfrage war zu groß. Öffne den Link noch einmal und drücke den Knopf.",)),
        "too_slow": ("Es wurde nichts geändert", ("Die Anfrage kam nicht rechtzeitig an. Bitte versuche es noch einmal.",)),
        "unavailable": (
            "Noch nicht abgemeldet",
            ("Wir können es gerade nicht festhalten, also ist nichts geschehen. Bitte versuche es in einer Minute erneut.",),
        ),
        "not_found": ("Hier ist nichts", ("Öffne den Abbestell-Link aus einer unserer Nachrichten.",)),
        "not_allowed": ("Es wurde nichts geändert", ("Diese Adresse versteht nur den Abbestell-Link aus unseren Nachrichten.",)),
    },
)


def page_text(accept_language: str) -> PageText:
    """Return the words in the language that an Accept-Language header prefers of those there are, else English."""
    best, best_quality = ENGLISH, 0.0
    for part in accept_language[:500].split(","):
        tag, _, parameters = part.strip().partition(";")
        text = {"en": ENGLISH, "de": GERMAN}.get(tag.strip().split("-")[0].lower())
        try:
            quality = float(parameters.strip().removeprefix("q=")) if parameters.strip() else 1.0
        except ValueError:
            continue
        if text is not None and quality > best_quality:
            best, best_quality = text, quality
    return best
