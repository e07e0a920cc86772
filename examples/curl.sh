#!/bin/sh
# A server that was started with: sightline serve scifact.index
set -eu
server=${1:-http://127.0.0.1:8000}

post() { curl --silent --show-error --fail-with-body --json "$2" "$server$1"; echo; }

# Search, with what got the attention in each hit.
post /search '{"query": "do statins lower the risk of heart attack", "k": 3, "evidence": "sentence"}'

# Rerank, as Cohere, Jina and vLLM do it (also at /v2/rerank and /rerank).
post /v1/rerank '{"query": "what do cats do", "documents": ["Dogs bark.", "Cats purr."], "top_n": 1}'

# The same, without documents that are probably not relevant: there may be none left.
post /v1/rerank '{"query": "what do cats do", "documents": ["Dogs bark.", "Cats purr."], "min_score": 0.5}'

# Rerank, as text-embeddings-inference does it.
post /rerank '{"query": "what do cats do", "texts": ["Dogs bark.", "Cats purr."]}'

# With SIGHTLINE_API_KEY set for the server and here: keep a document, and delete it again.
if [ -n "${SIGHTLINE_API_KEY:-}" ]; then
  key="Authorization: Bearer $SIGHTLINE_API_KEY"
  curl --silent --show-error --fail-with-body -X PUT -H "$key" --json '{"documents": [{"id": "a", "text": "Hi."}]}' \
    "$server/documents"
  echo
  curl --silent --show-error --fail-with-body -X DELETE -H "$key" "$server/documents/a"
  echo
fi
