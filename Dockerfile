# The command line in a container, with torch for CPUs: docs/install.md.
#
#   docker build -t offload-rllib .
#   docker run --rm -v "$PWD:/work" offload-rllib evaluate ether_12 local shortest_finish
FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 1000 user && mkdir /work && chown user /work

COPY . /tmp/source
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c /tmp/source/constraints.txt "/tmp/source[alibaba]" && rm -r /tmp/source

USER user
WORKDIR /work
# The simulator's kernels, compiled once here instead of in every container.
RUN offload-rllib evaluate ether_12 local --episodes 2 --out /tmp/warm && rm -r /tmp/warm

ENTRYPOINT ["offload-rllib"]
CMD ["--help"]
