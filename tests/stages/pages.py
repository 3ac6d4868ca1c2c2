"""A page of HTML as tests look at it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Tables of each section as rows of texts; texts of its figures; every element that was opened."""

    VOID = ("meta", "br")

    def __init__(self, html: str):
        super().__init__()
        self.section = "header"
        self.sections: dict[str, str] = {}
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.svg_texts: dict[str, list[str]] = {}
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = str(dict(attrs)["id"])
        tables = self.tables.setdefault(self.section, [])
        if tag == "table":
            tables.append([])
        elif tag == "tr":
            tables[-1].append([])
        elif tag in ("td", "th"):
            tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.sections[self.section] = self.sections.get(self.section, "") + data
        if "svg" in self.open:
            if self.open[-1] == "text":
                self.svg_texts.setdefault(self.section, []).append(data.strip())
        elif "td" in self.open or "th" in self.open:
            self.tables[self.section][-1][-1][-1] += data
