# syntax=docker/dockerfile:1
# The product's image, for those who have a container engine:
#
#   docker build --tag localhost/flightcluster:dev .
#
# Without an engine, `make image` writes an image of the same binaries, user and entry point.
# Both binaries are in it; the operator's pod runs /usr/local/bin/flightcluster-operator.

FROM rust:1-bookworm AS build
WORKDIR /source
COPY . .
# The caches outlive this step, so the binaries are copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --locked --release \
        --package flightcluster --package flightcluster-operator \
    && install -D --target-directory=/output \
        /target/release/flightcluster /target/release/flightcluster-operator

# The Debian release whose C library the binaries were linked against.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 65532 nonroot \
    && useradd --uid 65532 --gid 65532 --create-home --shell /usr/sbin/nologin nonroot
COPY --from=build /output/ /usr/local/bin/
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
WORKDIR /home/nonroot
EXPOSE 17001 17002 17101
ENTRYPOINT ["/usr/local/bin/flightcluster"]
