"""Rerank with an API over HTTP: that of a provider, or of a server that you run.

| name | endpoint | environment variable of the key |
|---|---|---|
| ``remote:cohere/MODEL`` | Cohere, version 2 | ``COHERE_API_KEY`` |
| ``remote:jina/MODEL`` | Jina AI | ``JINA_API_KEY`` |
| ``remote:voyage/MODEL`` | Voyage AI | ``VOYAGE_API_KEY`` |
| ``remote:URL/MODEL`` | vLLM, llama.cpp, ``sightline serve``: all that speak as Jina | ``SIGHTLINE_REMOTE_KEY`` |
| ``remote:URL`` | text-embeddings-inference (TEI), whose servers have one model | ``SIGHTLINE_REMOTE_KEY`` |

URL is the address that requests go to, such as ``http://localhost:8000/v1/rerank``; it ends in ``/rerank``. **Queries
and the texts of candidates are sent there.** Over ``http://``, they and the key travel as plain text. The key is read
from the environment for each request and kept nowhere; servers that you run may need none.

An endpoint's score is taken for the probability that the document is relevant, a number from 0 to 1, since these
endpoints document it so or train it so. It becomes the ``relevance`` as it is, and its logit becomes the ``score``. How
well it is calibrated depends on the provider. A score outside of 0 to 1 is an error; with ``#raw`` after the name, all
scores are taken as they are, and there is no relevance. Scores are assumed to depend on the query and the document
only.

The endpoint may cut long texts. It does not say how much it read, so ``truncated`` stays 0. There is no fallback: if
the endpoint fails, the ranking fails.
"""

from __future__ import annotations

import functools
import http.client
import json
import logging
import math
import os
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from .. import __version__
from ..errors import DataError, InputError, RemoteError, UnknownNameError
from ..names import RemoteName
from ..parsing import as_type, parse_json
from ..settings import Range
from ..wording import did_you_mean, quoted
from .batching import token_budget_batches
from .scorers import Scorer

__all__ = ["RemoteScorer"]

logger = logging.getLogger(__name__)

_OWN_KEY = "SIGHTLINE_REMOTE_KEY"
_TRIED_AGAIN = (429, 503)
_SECONDS = Range(above=0, high=86_400)
_LONGEST_WAIT = 60.0  # seconds; an endpoint that wants to be left alone for longer is out of order
_ROUNDING = 1e-6  # how far beyond 0 and 1 a probability in single precision may be
_MESSAGE = 300  # characters of an endpoint's own message
_jitter = random.Random()  # not the one that users seed


@dataclass(frozen=True, slots=True)
class _Service:
    """How to ask: where, with the key of which variable, and in which form."""

    url: str
    key: str
    documents: str = "documents"  # the field of the texts
    most: int = 1000  # texts of one request
    more: Mapping[str, Any] = field(default_factory=dict)  # further fields


_PROVIDERS = {
    "cohere": _Service("https://api.cohere.com/v2/rerank", "COHERE_API_KEY"),
    "jina": _Service("https://api.jina.ai/v1/rerank", "JINA_API_KEY", more={"return_documents": False}),
    "voyage": _Service("https://api.voyageai.com/v1/rerank", "VOYAGE_API_KEY"),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One text's score in an answer, under one of two names."""

    index: int
    relevance_score: float | None = None
    score: float | None = None


class RemoteScorer(Scorer):
    """Scores texts with a rerank API.

    Several threads may use it at once. It holds no key and no connection, so it can be copied and pickled.

    Args:
        name: the name of the endpoint: what follows ``remote:``, see `sightline.names.RemoteName`.
        timeout: the number of seconds to wait for the answer to one request.
        retries: the number of times that a request is sent again after 429 (too many requests), 503 (not available) or
            a lost connection. The endpoint's ``Retry-After`` says how long to wait; without it, the wait begins at 0.5
            to 1 second and doubles.
        batch_size: the largest number of texts in one request. If None, 1000, or 32 if the name has no model, which is
            what servers of text-embeddings-inference accept.

    Raises:
        InputError: if the name is not valid, the key is missing or cannot be used, or an option is out of range.

    Example:
        >>> scorer = RemoteScorer("http://localhost:8080/rerank", timeout=5)
        >>> scorer.score("who purrs", ["Cats purr.", "Iron rusts."])  # doctest: +SKIP
    """

    dtype = ""
    concurrent = True
    _sleep = staticmethod(time.sleep)

    def __init__(
        self,
        name: str,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        batch_size: int | None = None,
    ) -> None:
        server, model, raw = RemoteName.parse(name)
        self.name, self.logits = name, not raw
        self._service = _service(server, model)
        if timeout not in _SECONDS:
            raise InputError(f"timeout must be {_SECONDS}, not {quoted(timeout)}")
        for what, count, numbers in (("retries", retries, Range(0)), ("batch_size", batch_size, Range(1))):
            if count is not None and not (isinstance(count, int) and count in numbers):
                raise InputError(f"{what} must be a whole number, {numbers}, not {quoted(count)}")
        self.timeout, self.retries, self.batch_size = timeout, retries, batch_size or self._service.most
        self.backend = self._service.url.split("/")[2]
        if self._key() is None and server in _PROVIDERS:
            raise InputError(f"remote:{name} needs a key: set the environment variable {self._service.key}")

    def score(self, query: str, texts: Sequence[str]) -> tuple[list[float], list[int] | None]:
        """See `Scorer.score`.

        Raises:
            RemoteError: if the endpoint cannot be reached or refuses, or does not give each text one finite score.
        """
        scores = [0.0] * len(texts)
        for places in token_budget_batches([1] * len(texts), self.batch_size):
            for place, score in zip(places, self._ask(query, [texts[place] for place in places]), strict=True):
                scores[place] = _logit(score) if self.logits else score
        return scores, None

    def _ask(self, query: str, texts: list[str]) -> list[float]:
        """The scores of the texts of one request, in their order."""
        asked = {**self._service.more, "query": query, self._service.documents: texts}
        data = self._post(json.dumps(asked).encode())
        try:
            return self._read(data, len(texts))
        except DataError as error:
            why = error.reason
        if (key := self._key()) is not None and key.encode() in data:
            why = "it holds the key, so nothing of it is shown"
        elif not data.strip():
            why = "it is empty"
        elif data.lstrip().startswith(b"<"):
            why = "it is a web page, so the URL may not be that of a rerank API"
        raise self._error(f"the answer cannot be used: {why}")

    def _read(self, data: bytes, count: int) -> list[float]:
        """The scores in an answer, in the order of the texts."""
        scores = _by_place(_entries(parse_json(data)), count)
        if self.logits and (wrong := [score for score in scores if not -_ROUNDING <= score <= 1 + _ROUNDING]):
            raise DataError(
                f"it gives the score {wrong[0]:g}, which is not a probability; write 'remote:{self.name}#raw' to take "
                "its scores as they are, without a relevance"
            )
        return scores

    def _post(self, body: bytes) -> bytes:
        """The answer to a request, which is sent again where that may help."""
        for trial in range(1, self.retries + 2):
            wait = _jitter.uniform(0.25, 0.5) * 2**trial
            try:
                answer = self._exchange(body)
            except (OSError, http.client.HTTPException) as error:
                problem, again = self._why_lost(error)
            else:
                if 200 <= answer.status < 300:
                    return answer.data
                problem, again = self._why_refused(answer), answer.status in _TRIED_AGAIN
                wait = _asked_wait(answer.headers.get("Retry-After", "")) or wait
            if wait > _LONGEST_WAIT and again:
                raise self._error(f"{problem}; it asks to come back in {wait:.0f} s, do so")
            if not again or trial > self.retries:
                raise self._error(problem + (f"; tried {trial} times" if trial > 1 else ""))
            logger.warning("%s; trying again in %.1f s", self._error(problem), wait)
            self._sleep(wait)
        raise AssertionError

    def _exchange(self, body: bytes) -> _Answer:
        """Send one request, and read its answer within the time."""
        started = time.monotonic()
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"sightline/{__version__}",
        }
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._service.url, body, headers, method="POST")
        with _opener().open(request, timeout=self.timeout) as response:
            whole = response.length  # None if it is not declared
            most = 1_000_000 + 8 * len(body)  # documents may come back, with all characters escaped
            data = bytearray()
            while (whole is None or len(data) < whole) and (chunk := response.read1(1 << 16)):
                data += chunk
                if len(data) > most:
                    raise self._error(f"the answer has more than {most:,} bytes; is this a rerank API?")
                if time.monotonic() - started > self.timeout:
                    raise TimeoutError
            if whole is not None and len(data) < whole:
                raise http.client.IncompleteRead(bytes(data), whole - len(data))
            encoding = response.headers.get("Content-Encoding", "identity").lower()
            if encoding == "gzip":
                data = self._unpacked(data, most)
            elif encoding != "identity":
                raise self._error(f"the answer is encoded as {quoted(encoding)}, which was not asked for")
            return _Answer(response.status, response.headers, bytes(data))

    def _unpacked(self, data: bytearray, most: int) -> bytearray:
        unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            out = bytearray(unpack.decompress(data, most))
        except zlib.error as error:
            raise self._error(f"the answer cannot be unpacked: {error}") from error
        if not unpack.eof:
            raise self._error(f"the answer is packed, and has more than {most:,} bytes or breaks off")
        return out

    def _key(self) -> str | None:
        """The key, if there is one."""
        key = os.environ.get(self._service.key, "").strip()
        if key and re.fullmatch("[!-~]+", key) is None:
            raise InputError(f"{self._service.key} in the environment cannot be sent: it has blanks or is not ASCII")
        return key or None

    def _error(self, problem: str) -> RemoteError:
        """An error that names this reranker; a key that an endpoint sent back is left out."""
        return RemoteError(f"remote:{self.name}: {self._hidden(problem)}")

    def _hidden(self, text: str) -> str:
        key = self._key()
        return text if key is None else text.replace(key, "***")

    def _why_lost(self, error: Exception) -> tuple[str, bool]:
        """What happened to a request without an answer, and whether it may help to send it again."""
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        host = self.backend
        if isinstance(reason, ssl.SSLCertVerificationError):
            return f"the certificate of {host} cannot be verified ({reason.verify_message}); nothing was sent", False
        if isinstance(reason, ssl.SSLError) and not isinstance(reason, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return f"no encrypted connection to {host} ({reason.reason}); is it http:// rather than https://?", False
        if isinstance(reason, TimeoutError):
            return f"no answer within {self.timeout:g} s; load it with a larger timeout, or a smaller batch_size", False
        if isinstance(reason, socket.gaierror):
            return f"there is no host {host} ({reason.strerror})", reason.errno == socket.EAI_AGAIN
        if isinstance(reason, OSError | http.client.IncompleteRead):
            why = getattr(reason, "strerror", None) or str(reason)
            return f"the connection to {host} failed ({why}); does the server run?", True
        return f"{host} does not answer in HTTP ({type(reason).__name__})", False

    def _why_refused(self, answer: _Answer) -> str:
        """What a status other than success means, with the endpoint's own words."""
        status, said = answer.status, self._said(answer.data)
        if status in (301, 302, 303, 307, 308):
            target = quoted(self._hidden(answer.headers.get("Location", "").partition("?")[0]))
            return f"it redirects to {target} ({status}), where nothing was sent; name the URL that is meant"
        if status in (401, 403):
            wrong = "needs a key" if self._key() is None else "does not accept the key"
            return f"it {wrong} ({status}), which the environment variable {self._service.key} holds{said}"
        if status == 404:
            return f"there is no such endpoint, or no such model ({status}){said}"
        if status == 413:
            return f"the request is too large ({status}){said}; load it with a smaller batch_size"
        return f"it answers {status} {http.client.responses.get(status, '')}".rstrip() + said

    def _said(self, data: bytes) -> str:
        """The message in an answer that is an error, behind a colon."""
        try:
            value = parse_json(data)
        except DataError:
            text = data[: 10 * _MESSAGE].decode(errors="replace")
            value = "a web page" if text.lstrip().startswith("<") else text
        for name in ("error", "message", "detail"):
            value = value.get(name, value) if isinstance(value, dict) else value
        text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
        return f": {self._hidden(text)[:_MESSAGE]}" if text else ""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    data: bytes


class _NoFollowing(urllib.request.HTTPErrorProcessor):
    """Gives every answer as it is: no redirect is followed, so that no key and no text goes to another address."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    """What opens connections, by the proxies of the environment; reading the system's certificates takes a while."""
    secure = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    return urllib.request.build_opener(secure, _NoFollowing())


def _service(server: str, model: str) -> _Service:
    """How to ask a server for the scores of a model."""
    if server in _PROVIDERS:
        known = _PROVIDERS[server]
        return _Service(known.url, known.key, known.documents, known.most, {**known.more, "model": model})
    if "://" not in server:
        raise UnknownNameError(
            f"there is no provider {quoted(server)}; there are {', '.join(_PROVIDERS)}, and URLs such as "
            f"http://localhost:8000/v1/rerank{did_you_mean(server, _PROVIDERS)}"
        )
    if not model:
        return _Service(server, _OWN_KEY, "texts", 32, {"truncate": True})
    # vLLM refuses long texts unless it is told to cut them; servers that have no such field pass it over.
    more = {"model": model, "return_documents": False, "truncate_prompt_tokens": -1}
    return _Service(server, _OWN_KEY, more=more)


def _entries(value: Any) -> list[_Entry]:
    """The scores of an answer: a list, or ``results`` or ``data`` of an object."""
    if isinstance(value, dict):
        names = [name for name in ("results", "data") if name in value]
        if not names:
            raise DataError(f"it has neither 'results' nor 'data' but {quoted(value)}")
        value = value[names[0]]
    return as_type(value, list[_Entry])


def _by_place(entries: Sequence[_Entry], count: int) -> list[float]:
    """The scores in the order of the texts, each of which must have one."""
    scores: list[float | None] = [None] * count
    for entry in entries:
        if not 0 <= entry.index < count:
            raise DataError(f"it has the index {quoted(entry.index)}, and there are texts 0 to {count - 1}")
        if scores[entry.index] is not None:
            raise DataError(f"it has the index {entry.index} twice")
        score = entry.score if entry.relevance_score is None else entry.relevance_score
        if score is None:
            raise DataError(f"it has no 'relevance_score' and no 'score' of text {entry.index}")
        scores[entry.index] = score
    if None in scores:
        raise DataError(f"it has scores for {len(entries)} of {count} texts, and none for text {scores.index(None)}")
    return [score for score in scores if score is not None]


def _logit(probability: float) -> float:
    """The natural logarithm of the odds; finite, since 0 and 1 count as the closest numbers inside."""
    inside = min(max(probability, math.ulp(0.0)), 1 - 2**-53)
    return math.log(inside) - math.log1p(-inside)


def _asked_wait(header: str) -> float | None:
    """The seconds of a ``Retry-After``, which is a number or a date; None if it is neither."""
    if re.fullmatch(r"[0-9]{1,9}", header.strip(), re.ASCII):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (date - datetime.now(UTC)).total_seconds()) if date.tzinfo is not None else None
