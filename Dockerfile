# CPU image for the README's two commands. Results go to /clrft/runs: mount a folder there to keep them.
#   docker build -t clrft .
#   docker run --rm -v "$PWD/runs:/clrft/runs" clrft                  # scripts/quickstart.sh
#   docker run --rm --shm-size 2g clrft scripts/test.sh
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /clrft
COPY . .
RUN bash -c 'source scripts/environment.sh && prepare_environment test'

CMD ["scripts/quickstart.sh"]
