"""The leaderboard as a picture: each model's rating with its 95 % interval, as SVG without any script."""

from __future__ import annotations

from html import escape

from lotune.arena.leaderboard import Leaderboard
from lotune.text_display import show_control_characters

WIDTH, ROW, LABEL, MARGIN = 720, 28, 220, 40
MAX_LABEL = 30


def leaderboard_svg(board: Leaderboard) -> str:
    """Return the picture of a leaderboard; it has no rows if no model is rated."""
    places = [place for place in board.places if place.rating is not None and place.interval is not None]
    height = MARGIN * 2 + ROW * max(1, len(places))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="13" fill="#1c1c1c" role="img">',
        f"<title>Leaderboard of {board.votes} votes</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LABEL}" y="20">Rating, 95 % interval, {board.votes:,} votes</text>',
    ]
    if not places:
        lines.append(f'<text x="20" y="{MARGIN + 18}">No model has enough votes for a rating.</text>')
    low = min((place.interval[0] for place in places if place.interval), default=0.0)
    high = max((place.interval[1] for place in places if place.interval), default=1.0)
    span = max(high - low, 1.0)

    def x(value: float) -> str:
        return f"{LABEL + (value - low) / span * (WIDTH - LABEL - MARGIN):.1f}"

    for number, place in enumerate(places):
        assert place.interval is not None
        assert place.rating is not None
        y = MARGIN + ROW * number + ROW / 2
        name = place.model if len(place.model) <= MAX_LABEL else place.model[: MAX_LABEL - 1] + "…"
        ends = [x(value) for value in place.interval]
        label = escape(show_control_characters(f"{place.rank}  {name}"))
        lines += [
            f'<text x="{LABEL - 12}" y="{y + 4}" text-anchor="end">{label}</text>',
            f'<line x1="{ends[0]}" x2="{ends[1]}" y1="{y}" y2="{y}" stroke="#2b6cb0" stroke-width="2"/>',
            *(f'<line x1="{end}" x2="{end}" y1="{y - 5}" y2="{y + 5}" stroke="#2b6cb0"/>' for end in ends),
            f'<circle cx="{x(place.rating)}" cy="{y}" r="4" fill="#2b6cb0"/>',
            f'<text x="{x(place.rating)}" y="{y - 7}" text-anchor="middle" font-size="10">{place.rating:.0f}</text>',
        ]
    lines += [
        f'<text x="{x(value)}" y="{height - 12}" text-anchor="middle" font-size="11">{value:.0f}</text>'
        for value in ((low, (low + high) / 2, high) if places else ())
    ]
    return "\n".join([*lines, "</svg>\n"])
