"""Mail templates by name and version, one's own from a folder, and what is wrong with one before it is used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.errors import SetupError
from core.rendering import checking, discord, email, slack, webhook
from core.rendering.catalogue import ALERT, SHIPPED, SHIPPED_FILES, look_of
from core.rendering.checking import MAX_HTML_BYTES, longest_issue, problems_of
from core.rendering.email import newsletter_email, newsletter_layout
from core.rendering.fragments import FragmentCache
from core.rendering.links import item_link
from core.rendering.templating import MailTemplate
from deploy.population import publications
from deploy.stack.environment import ARXIV_TOPICS
from runtime.settings import Settings
from runtime.templates import Templates, load_templates
from runtime.topic_names import load_topic_names, topic_names_for
from tests.rendering_samples import PUBLISHED, issue, real_issue

MJML = """<mjml lang="[[ locale ]]">
  <mj-head><mj-include path="_head.mjml" /></mj-head>
  <mj-body>
    <mj-section>
      <mj-column>
        <mj-text><h1>[[ name ]]</h1>{{date}}</mj-text>
        <mj-raw>[% block item %]</mj-raw>
        <mj-text><a href="[[ url ]]">[[ title ]]</a> [[ reason ]]</mj-text>
        <mj-raw>[% endblock %]</mj-raw>
        <mj-text><a href="{{unsubscribe_url}}">[[ unsubscribe ]]</a> [[ postal_address ]]</mj-text>
      </mj-column>
    </mj-section>
  </mj-body>
</mjml>
"""
LEAVE = '<a href="{{unsubscribe_url}}">[[ unsubscribe ]]</a>'
TEXT = """[[ name ]]
[% block item %]
[[ title ]]: [[ url ]]
[% endblock %]
{{unsubscribe_text}}
[[ postal_address ]]
"""


def files(mjml: str = MJML, text: str = TEXT) -> dict[str, str]:
    return {**SHIPPED_FILES, "ours.mjml": mjml, "ours.txt": text}


def settings(folder: Path | str) -> Settings:
    return Settings.load({"NEWSWIRE_TEMPLATES": str(folder), "NEWSWIRE_HOME": "none"})


def folder_of(path: Path, mjml: str = MJML, text: str = TEXT, name: str = "ours") -> Path:
    (path / f"{name}.mjml").write_text(mjml, encoding="utf-8")
    (path / f"{name}.txt").write_text(text, encoding="utf-8")
    return path


def test_the_shipped_templates_are_sound() -> None:
    """Two at least for newsletters, one for alerts; the longest issue is not cut off by Gmail."""
    assert {"newsletter", "digest"} <= SHIPPED.keys()
    for name, template in SHIPPED.items():
        assert problems_of(name, SHIPPED_FILES) == []
        assert len(newsletter_email(longest_issue(template)).html.encode()) <= MAX_HTML_BYTES
    assert ALERT.name not in SHIPPED


def test_a_version_changes_with_any_source_and_with_nothing_else() -> None:
    """A short hash of what the template is made of, the files that it includes among them."""
    first = MailTemplate("ours", files())
    assert first.id == f"ours@{first.version}"
    assert MailTemplate("ours", files()).version == first.version
    changed = [files(mjml=MJML.replace("h1", "h2")), files(text=TEXT + "!"), {**files(), "_head.mjml": "<mj-title>x</mj-title>"}]
    assert len({first.version, *(MailTemplate("ours", one).version for one in changed)}) == 4


def test_the_compact_template_shows_titles_only() -> None:
    """The digest leaves the summaries out, in both parts and where people chat, and nothing else that a reader needs."""
    long, short = (newsletter_email(real_issue(template=SHIPPED[name])) for name in ("newsletter", "digest"))
    for one in (long.html, long.text):
        assert "rank doubly" in one
    for one in (short.html, short.text):
        assert "rank doubly" not in one
        assert "Rank Collapse" in one
        assert "Because you read" in one
        assert "Musterstraße" in one
    assert len(short.html) < len(long.html)
    for render in (slack.newsletter_blocks, discord.newsletter_embeds):
        assert "rank doubly" in str(render(real_issue()))
        assert "rank doubly" not in str(render(real_issue(template=SHIPPED["digest"])))


def test_one_of_ones_own_is_used_under_its_name(tmp_path: Path) -> None:
    """From the folder, beside those that are shipped; a lead is an item when it has none of its own."""
    templates = load_templates(settings(folder_of(tmp_path)))
    assert templates.keys() == {*SHIPPED, "ours"}
    message = newsletter_email(issue(2, template=templates["ours"]))
    assert message.html.count('<a href="https://example.org/p/') == 2
    assert "Paper 1 on things: https://example.org/p/1" in message.text
    assert "You follow hep\u2011ph" in message.html
    assert load_templates(settings("")) == SHIPPED


def test_layouts_of_two_templates_are_two(tmp_path: Path) -> None:
    """So a call never mixes them."""
    assert newsletter_layout(issue()) != newsletter_layout(issue(template=SHIPPED["digest"]))


WRONG: list[tuple[str, dict[str, str], str, str]] = [
    ("syntax", {"mjml": MJML.replace("[[ reason ]]", "[[ reason ")}, "ours.mjml", "line 8"),
    ("syntax", {"mjml": MJML.replace("[% endblock %]", "")}, "ours.mjml", "block"),
    ("syntax", {"mjml": MJML.replace("</mj-column>", "")}, "ours.mjml", "line 5: <mj-column> is not closed"),
    ("syntax", {"mjml": MJML.replace("mj-section", "mj-sektion")}, "ours.mjml", "<mj-sektion> is no element of MJML"),
    ("syntax", {"text": TEXT + "[% if %]"}, "ours.txt", "line 7"),
    ("syntax", {"mjml": MJML.replace("<h1>", "a < b<br><h1>")}, "ours.mjml", "line 6: cannot be compiled: not well-formed"),
    ("syntax", {"mjml": MJML + "<mjml></mjml>"}, "ours.mjml", "line 15: cannot be compiled: junk after document element"),
    ("syntax", {"mjml": MJML.replace("<h1>", "<![CDATA[x]]><h1>")}, "ours.mjml", "line 6: cannot be compiled: unexpected token"),
    ("syntax", {"mjml": MJML.replace("[[ title ]]", "[[ title|nosuch ]]")}, "ours.mjml", "line 8: No filter named 'nosuch'"),
    ("syntax", {"mjml": MJML.replace("[[ reason ]]", "[[ reason // 2 ]]")}, "ours.mjml", "line 8: TypeError"),
    ("unknown_variable", {"mjml": MJML.replace("[[ title ]]", "[[ title.a.b ]]")}, "ours.mjml", "line 8: "),
    ("unknown_variable", {"mjml": MJML.replace("[[ name ]]", "[[ name.a.b ]]")}, "ours.mjml", "line 6: "),
    ("unknown_variable", {"text": TEXT.replace("[[ title ]]", "[[ title.a.b ]]")}, "ours.txt", "line 3: "),
    (
        "unknown_variable",
        {"mjml": MJML.replace("[[ title ]]", "[[ title ]][[ titel ]]")},
        "ours.mjml",
        "line 8: there is no [[ titel ]]",
    ),
    ("unknown_variable", {"mjml": MJML.replace("{{date}}", "{{day}}")}, "ours.mjml", "line 6: there is no {{day}}"),
    ("unknown_variable", {"mjml": MJML.replace("{{date}}", "{{Date2}}")}, "ours.mjml", "line 6: there is no {{Date2}}"),
    ("unknown_variable", {"text": TEXT + "{{ count }}"}, "ours.txt", "there is no {{ count }}"),
    ("unknown_variable", {"text": TEXT + "[[ phrases.nothing ]]"}, "ours.txt", "line 7: there is no [[ phrases.nothing ]]"),
    ("unknown_variable", {"text": TEXT + "[[ url ]]"}, "ours.txt", "in the layout there are"),
    ("missing_variable", {"text": "{{unsubscribe_text}} [[ postal_address ]]"}, "ours.txt", "would show no items"),
    ("missing_variable", {"mjml": MJML.replace("[[ title ]]", "x")}, "ours.mjml", "[[ title ]]"),
    ("missing_variable", {"mjml": MJML.replace("[[ postal_address ]]", "")}, "ours.mjml", "postal_address"),
    ("no_unsubscribe", {"mjml": MJML.replace("{{unsubscribe_url}}", "https://example.org/")}, "ours.mjml", "unsubscribe link"),
    ("no_unsubscribe", {"text": TEXT.replace("{{unsubscribe_text}}", "")}, "ours.txt", "unsubscribe address"),
    ("broken_link", {"mjml": MJML.replace("{{date}}", '<a href="/about">x</a>')}, "ours.mjml", 'line 6: the address "/about"'),
    ("broken_link", {"mjml": MJML.replace("{{date}}", '<a href="https://">x</a>')}, "ours.mjml", "leads nowhere"),
    ("broken_link", {"mjml": MJML.replace("{{date}}", '<a href="javascript:alert(1)">x</a>')}, "ours.mjml", "leads nowhere"),
    ("broken_link", {"mjml": MJML.replace("{{date}}", "<a HREF = 'about'>x</a>")}, "ours.mjml", 'line 6: the address "about"'),
    ("syntax", {"mjml": MJML.replace("{{date}}", "{{date")}, "ours.mjml", "line 6: {{ begins a placeholder that does not end"),
    ("no_unsubscribe", {"mjml": MJML.replace(LEAVE, f"<!-- {LEAVE} -->")}, "ours.mjml", "shows no unsubscribe link"),
    ("no_unsubscribe", {"mjml": MJML.replace(LEAVE, f"[% if false %]{LEAVE}[% endif %]")}, "ours.mjml", "or conditional"),
    ("no_unsubscribe", {"text": TEXT.replace("{{unsubscribe_text}}", "[# {{unsubscribe_text}} #]")}, "ours.txt", "in a comment"),
    ("missing_variable", {"text": TEXT.replace("[[ title ]]", "[% if not url %][[ title ]][% endif %]")}, "ours.txt", "shows no"),
    ("too_large", {"mjml": MJML.replace("[[ reason ]]", "x" * 6_000)}, "ours.mjml", "Gmail cuts off"),
    ("missing_file", {"mjml": MJML.replace("_head.mjml", "_none.mjml")}, "ours.mjml", "line 2: includes _none.mjml"),
]


@pytest.mark.parametrize(
    ("code", "change", "file", "says"), WRONG, ids=[f"{one[0]}-{number}" for number, one in enumerate(WRONG)]
)
def test_a_problem_says_where_and_what(code: str, change: dict[str, Any], file: str, says: str) -> None:
    """Its kind, its file, its line where there is one, and what to write instead."""
    found = problems_of("ours", files(**change))
    assert [problem for problem in found if problem.code == code and problem.file == file and says in str(problem)], found


def test_the_line_is_that_of_the_file_it_stands_in() -> None:
    """Includes, and comments of several lines, move what comes after them for the compiler only."""
    head, commented = "<mj-title>\nx\n</mj-title>\n", MJML.replace("<mj-body>", "<!-- two\nlines --><mj-body>")
    below = problems_of("ours", {**files(commented.replace("[[ title ]]", "[[ title.a.b ]]")), "_head.mjml": head})
    assert [(problem.file, problem.line) for problem in below] == [("ours.mjml", 9)]
    within = problems_of("ours", {**files(commented), "_head.mjml": head.replace("x", "a < b")})
    assert [(problem.file, problem.line) for problem in within] == [("_head.mjml", 2)]


def test_what_cannot_be_compiled_is_said_before_what_is_missing() -> None:
    """Who has begun a template has neither items nor an unsubscribe link yet."""
    found = problems_of("ours", {"ours.mjml": "<mjml>\n<mj-body>\n<mj-text>a < b</mj-text>\n</mj-body></mjml>", "ours.txt": ""})
    assert [str(one) for one in found] == ["ours.mjml, line 3: cannot be compiled: not well-formed (invalid token)"]


def test_a_sound_template_has_no_problem() -> None:
    """What the cases above start from."""
    assert problems_of("ours", files()) == []
    alone = {"ours.mjml": MJML}
    assert [(problem.code, problem.file) for problem in problems_of("ours", alone)] == [("missing_file", "ours.txt")]


def test_every_kind_of_problem_is_tried() -> None:
    """A kind without a case above would be untested."""
    kinds = {value for name, value in vars(checking).items() if name.isupper() and isinstance(value, str)}
    assert kinds == {code for code, *_ in WRONG}


def test_a_process_does_not_start_with_a_broken_template(tmp_path: Path) -> None:
    """The error names folder, file and line; so does one for a folder that is not there, and for the name of alerts."""
    folder_of(tmp_path, mjml=MJML.replace("[[ reason ]]", "[[ reason "))
    with pytest.raises(SetupError, match=r"ours\.mjml, line 8") as refused:
        load_templates(settings(tmp_path))
    assert str(tmp_path) in str(refused.value)
    with pytest.raises(SetupError, match="cannot be read"):
        load_templates(settings(tmp_path / "none"))
    with pytest.raises(SetupError, match="template of alerts"):
        load_templates(settings(folder_of(tmp_path, name="alert")))


def test_names_of_topics_come_from_a_file_by_language(tmp_path: Path) -> None:
    """One name for every language, or one for each with English for the rest; the error says which topic has none."""

    def of(text: str) -> Settings:
        (tmp_path / "topics.json").write_text(text, encoding="utf-8")
        return Settings.load({"NEWSWIRE_TOPIC_NAMES": str(tmp_path / "topics.json"), "NEWSWIRE_HOME": "none"})

    with pytest.raises(SetupError, match="b: 'english' is no BCP 47"):
        load_topic_names(of('{"b": {"english": "Optics"}}'))
    names = load_topic_names(of('{"a": "Name", "b": {"de": "Optik", "en": "Optics"}, "c": {"en": "Sets"}, "d": {"fr": "Son"}}'))
    assert names["en"] == {"a": "Name", "b": "Optics", "c": "Sets", "d": "Son"}
    assert names["de"] == {"a": "Name", "b": "Optik", "c": "Sets", "d": "Son"}
    assert load_topic_names(settings("")) == {"en": {}, "de": {}}
    for broken, said in (("{", "cannot be read as JSON"), ('["a"]', "the file"), ('{"a": ""}', "a has no usable name"),
                         ('{"a": {}}', "a has no"), (f'{{"a": "{"x" * 101}"}}', "at most 100")):  # fmt: skip
        with pytest.raises(SetupError, match=said):
            load_topic_names(of(broken))
        assert topic_names_for(of(broken), "urgent") == {"en": {}, "de": {}}
    shipped = load_topic_names(Settings.load({"NEWSWIRE_TOPIC_NAMES": str(ARXIV_TOPICS), "NEWSWIRE_HOME": "none"}))
    assert [shipped[language]["quant-ph"] for language in ("en", "de")] == ["Quantum Physics", "Quantenphysik"]
    given = json.loads(ARXIV_TOPICS.read_text(encoding="utf-8"))
    assert all(set(names) == {"en", "de"} for names in given.values())
    assert {topic["topic"] for one in publications() for topic in one["topics"]} <= given.keys()


async def test_a_running_process_takes_a_changed_folder_when_it_is_whole_and_sound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what two looks have seen, told once; what is broken, or gone, leaves the templates as they were."""
    templates = Templates(settings(folder_of(tmp_path)), "bulk")
    used, first = templates.by_name, templates.by_name["ours"].id
    caplog.set_level("INFO", logger="runtime.templates")

    folder_of(tmp_path, mjml=MJML.replace("<h1>", "<h2>").replace("</h1>", "</h2>"))
    await templates.look()
    assert used["ours"].id == first, "it may be being written"
    await templates.look()
    second = used["ours"].id
    assert second != first
    assert second in caplog.text
    assert used.keys() == {*SHIPPED, "ours"}

    for path in tmp_path.iterdir():
        path.unlink()
    for _ in range(3):
        await templates.look()
    assert used["ours"].id == second, "a folder that was emptied takes nothing away"

    for change in (
        lambda: folder_of(tmp_path, mjml=MJML.replace("[[ reason ]]", "[[ reason ")),
        lambda: (tmp_path / "ours.txt").unlink(),
        lambda: shutil.rmtree(tmp_path),
    ):
        caplog.clear()
        change()
        for _ in range(4):
            await templates.look()
        assert used["ours"].id == second
        assert caplog.text.count("the templates stay as they were") == 1

    tmp_path.mkdir()
    folder_of(tmp_path)
    for _ in range(2):
        await templates.look()
    assert used["ours"].id == first


def test_a_broken_template_of_a_newsletter_does_not_stop_alerts(tmp_path: Path) -> None:
    """Alerts have a template of their own; the sinks of newsletters refuse to start."""
    broken = settings(folder_of(tmp_path, mjml=MJML.replace("[[ reason ]]", "[[ reason ")))
    assert Templates(broken, "urgent").by_name == SHIPPED
    with pytest.raises(SetupError, match=r"ours\.mjml, line 8"):
        Templates(broken, "bulk")


def test_a_template_reaches_nothing_outside_of_itself(tmp_path: Path) -> None:
    """It is text: no file but those of its folder is included, and no attribute of Python's can be had."""
    outside = problems_of("ours", files(mjml=MJML.replace("_head.mjml", "../../secret.mjml")))
    assert [problem.code for problem in outside] == ["missing_file"]
    inside = problems_of("ours", files(text=TEXT + "[[ name.__class__.__mro__ ]]"))
    assert inside


def test_a_variant_has_its_own_subject_and_template() -> None:
    """What it leaves out is the newsletter's, and a variant that is not there any more is none."""
    variants = [
        {"name": "control", "subject": None, "template": None},
        {"name": "short", "subject": "Short", "template": "digest"},
        {"name": "subject", "subject": "Other", "template": None},
    ]
    definition = {"subject": "{title}", "template": "newsletter", "variants": variants}
    assert look_of(definition, None) == look_of(definition, "control") == look_of(definition, "gone") == ("{title}", "newsletter")
    assert look_of(definition, "short") == ("Short", "digest")
    assert look_of(definition, "subject") == ("Other", "newsletter")


@pytest.mark.parametrize("channel", ["email", "slack", "discord", "webhook"])
def test_every_address_of_an_item_is_asked_for(channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By delivery and position, for each message anew, so that clicks can be counted; today it is the publication's own."""
    assert item_link("https://example.org/p", "20261123-x", 3) == "https://example.org/p"
    modules: dict[str, Any] = {"email": email, "slack": slack, "discord": discord, "webhook": webhook}
    cache = FragmentCache()

    def shown(delivery_id: str) -> str:
        one = real_issue(delivery_id=delivery_id)
        if channel == "email":
            message = email.newsletter_email(one, cache)
            return message.html + message.text
        if channel == "webhook":
            return webhook.newsletter_payload(one, delivery_id="d", source_id="s", timestamp=PUBLISHED, cache=cache).decode()
        return json.dumps(slack.newsletter_blocks(one, cache) if channel == "slack" else discord.newsletter_embeds(one, cache))

    assert "https://example.org/p/1" in shown("first")
    counted = lambda url, delivery_id, position: f"https://c.example/{delivery_id}/{position}" if url else ""  # noqa: E731
    monkeypatch.setattr(modules[channel], "item_link", counted)
    for delivery_id in ("first", "second"):
        text = shown(delivery_id)
        assert "https://example.org/p/" not in text
        assert all(f"https://c.example/{delivery_id}/{position}" in text for position in range(4))
