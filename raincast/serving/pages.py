"""Pages of the service, which load nothing else: the home page, and the API with a form to try it."""

from __future__ import annotations

import json
from html import escape

from raincast.forecasting.model import Model
from raincast.observations.columns import COLUMNS
from raincast.serving import openapi
from raincast.serving.openapi import EXAMPLE

# No other origin is loaded, and no page may frame these.
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
    " connect-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #1769aa; }
@media (prefers-color-scheme: dark) { :root { --accent: #7cc0f4; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
a { color: var(--accent); } code, pre, textarea { font: 14px/1.45 ui-monospace, monospace; }
pre, textarea { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .75rem;
  overflow: auto; width: 100%; box-sizing: border-box; }
textarea { min-height: 16rem; color: inherit; } button { font: inherit; padding: .4rem 1.2rem; margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25rem .6rem .25rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
.method { display: inline-block; min-width: 3.5rem; font-weight: 600; color: var(--accent); }
.scroll { overflow-x: auto; }
"""
_SCRIPT = """
document.getElementById('try').addEventListener('submit', async event => {
  event.preventDefault();
  const output = document.getElementById('response');
  output.textContent = 'waiting ...';
  try {
    const response = await fetch('forecast', { method: 'POST', headers: { 'Content-Type': 'application/json' },
      body: document.getElementById('observations').value });
    output.textContent = response.status + ' ' + response.statusText + '\\n' + JSON.stringify(await response.json(), null, 1);
  } catch (error) { output.textContent = 'no response: ' + error; }
});
"""


def home(model: Model) -> str:
    """Return the home page: an example, the model and links."""
    description = model.description
    period = description["period"]
    training_data = f"{description['rows']:,} observations" + (f" from {period[0]} to {period[1]}" if period else "")
    curl = (
        "curl http://localhost:8080/forecast -H 'Content-Type: application/json' \\\n"
        '  -d \'{"observations": [{"Location": "Sydney", "Humidity3pm": 71, "Pressure3pm": 1013.8, "Rainfall": 2.6}]}\''
    )
    body = f"""
<h1>Raincast</h1>
<p>Does it rain tomorrow at an Australian weather station? Send today's observations, get the probability of more than
1 mm of rain in the 24 hours from 9 am.</p>
<pre>{escape(curl)}</pre>
<p><a href="docs">The API, with a form to try it</a> · <a href="openapi.json">OpenAPI</a> · <a href="version">version</a></p>
<p>Model <code>{escape(model.version)}</code>, trained on {escape(training_data)}.</p>
"""
    return _page("Raincast", body)


def docs() -> str:
    """Return the page of the API: operations, a form, columns with their limits."""
    document = openapi.document("")
    operations = "".join(
        f'<tr><td><span class="method">{method.upper()}</span></td><td><code>{path}</code></td>'
        f"<td>{escape(operation['summary'])}<br><small>{escape(_responses(operation))}</small></td></tr>"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    columns = "".join(
        f"<tr><td><code>{column.name}</code></td><td>{escape(column.limit)}</td><td>{escape(column.meaning)}</td></tr>"
        for column in COLUMNS
    )
    example = json.dumps({"observations": list(EXAMPLE)}, indent=1)
    body = f"""
<h1>Raincast API</h1>
<p><a href=".">Home</a> · <a href="openapi.json">OpenAPI document</a></p>
<h2>Try it</h2>
<form id="try">
<label for="observations">Observations, as <code>POST /forecast</code> takes them:</label>
<textarea id="observations" spellcheck="false">{escape(example)}</textarea>
<button>Forecast</button>
<pre id="response" aria-live="polite">The response appears here.</pre>
</form>
<h2>Operations</h2>
<div class="scroll"><table>{operations}</table></div>
<p>Errors are problem documents (RFC 9457) that name each row, column, value and limit. A request has at most 10 MB and
10,000 observations, as JSON or CSV; <code>Accept: text/csv</code> gets CSV.</p>
<h2>Columns</h2>
<p>Only <code>Location</code> and one measurement are required. The observations of one request are each other's context:
those of the same day at other stations and of earlier days at the same station improve a forecast.</p>
<div class="scroll"><table><tr><th>Column</th><th>Value</th><th>Meaning</th></tr>{columns}</table></div>
<script>{_SCRIPT}</script>
"""
    return _page("Raincast API", body)


def _responses(operation: dict[str, dict[str, dict[str, str]]]) -> str:
    return " · ".join(f"{status}: {response['description']}" for status, response in operation["responses"].items())


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )
