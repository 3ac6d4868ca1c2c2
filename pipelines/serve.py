"""A trained model behind HTTP, on Ray Serve: JSON samples in, JSON predictions out.

    python pipelines/serve.py MODEL            # until Ctrl-C; needs pip install 'mmray[serve]'
    curl -d '[{"video": "/data/a.mp4", "text": "so good"}]' http://127.0.0.1:8000/

Paths and URIs are read by the server: let only those ask that may read them.
"""

import asyncio
import sys

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import mmray


@serve.deployment(max_ongoing_requests=1, ray_actor_options={"num_cpus": 1})
class Predict:
    """A replica: the model and its encoders, loaded once."""

    def __init__(self, model: str):
        self.model = mmray.load(model)

    async def __call__(self, request: Request) -> JSONResponse:
        """A JSON list of samples → a list of predictions; what the caller can mend is a 400."""
        try:
            samples = await request.json()
            return JSONResponse(await asyncio.to_thread(self.model.records, samples))
        except (ValueError, mmray.MmrayError) as fault:
            return JSONResponse({"error": str(fault)}, status_code=400)


if __name__ == "__main__":
    serve.run(Predict.bind(sys.argv[1]), blocking=True)
