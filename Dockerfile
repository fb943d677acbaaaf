# Images of all parts, one target each:
#
#   docker build --target controller -t fairway/controller:0.1.0 .
#   docker build --target ztunnel    -t fairway/ztunnel:0.1.0 .
#   docker build --target waypoint   -t fairway/waypoint:0.1.0 .
#   docker build --target cni        -t fairway/cni:0.1.0 .
#   docker build --target fairway    -t fairway/fairway:0.1.0 .
#
# docs/guides/kind.md builds and loads them all. No test builds them: nothing that the tests run on has Docker.

# The Rust of rust-toolchain.toml, on the Debian whose C library the images below have.
FROM rust:1.95-bookworm AS build
WORKDIR /source
# What AWS-LC, the TLS provider, is built with.
RUN apt-get update && apt-get install -y --no-install-recommends cmake clang && rm -rf /var/lib/apt/lists/*
COPY . .
# The cache is kept by the builder, not by the image, so programs are copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --locked --release --bins && mkdir /programs && \
    cp target/release/controller target/release/ztunnel target/release/waypoint target/release/fairway \
       target/release/fairway-cni target/release/fairway-cni-agent /programs/ && strip /programs/*

# C library, roots of certificates, an account that is not root, and no shell.
FROM gcr.io/distroless/cc-debian12:nonroot AS small

FROM small AS controller
COPY --from=build /programs/controller /usr/local/bin/controller
ENTRYPOINT ["/usr/local/bin/controller"]

FROM small AS waypoint
COPY --from=build /programs/waypoint /usr/local/bin/waypoint
ENTRYPOINT ["/usr/local/bin/waypoint"]

FROM small AS fairway
COPY --from=build /programs/fairway /usr/local/bin/fairway
ENTRYPOINT ["/usr/local/bin/fairway"]

# It enters pods' network namespaces, for which the chart gives it root with three capabilities.
FROM gcr.io/distroless/cc-debian12 AS ztunnel
COPY --from=build /programs/ztunnel /usr/local/bin/ztunnel
ENTRYPOINT ["/usr/local/bin/ztunnel"]

# The agent writes rules with nft, or with iptables where that does not work, so it has a distribution below it.
FROM debian:bookworm-slim AS cni
RUN apt-get update && apt-get install -y --no-install-recommends nftables iptables && rm -rf /var/lib/apt/lists/*
COPY --from=build /programs/fairway-cni-agent /programs/fairway-cni /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/fairway-cni-agent"]
