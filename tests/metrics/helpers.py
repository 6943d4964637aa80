"""A scraper: what curl brings, as Prometheus' own parser understands it."""

import subprocess
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

#: curl(1), EXIT CODES.
CURL_REFUSED = 7
#: A metric with its labels, such as ``capd_captures{capture="dns"}``.
Samples = dict[str, float]


def scrape_text(path: Path | str) -> str:
    """Return what is served on a socket."""
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "20"]
    done = subprocess.run(
        [*command, "--unix-socket", str(path), "http://capd/metrics"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def parsed(text: str) -> Samples:
    """Return each sample of a text."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def scrape(path: Path | str) -> Samples:
    """Return each sample that is served on a socket."""
    return parsed(scrape_text(path))
