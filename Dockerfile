# The gateway in an image without a shell, as a user without privileges.
#
#   docker build -t keybearer .
#   docker run --rm -p 127.0.0.1:8080:8080 -e ORDERS_SECRET \
#     -v "$PWD/keybearer.yaml:/etc/keybearer/keybearer.yaml:ro" keybearer
#
# In the image a listener's address is 0.0.0.0:8080: nothing outside reaches its loopback. The admin address may
# stay 127.0.0.1:9901 for the health check below.

# Both may be others: --build-arg BASE_IMAGE=... The second needs glibc 2.36 or later and the system's certificates.
ARG RUST_IMAGE=rust:1-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /src

# The dependencies, in a layer that only Cargo.toml, Cargo.lock and .cargo change. The libraries in C need a compiler
# and make, which the image has.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src benches \
 && echo '//! Stand-in.' > src/lib.rs \
 && printf '//! Stand-in.\nfn main() {}\n' | tee src/main.rs benches/gateway.rs > benches/route.rs \
 && cargo build --release --locked \
 && rm -r src benches

COPY benches benches
# A template that the program carries along.
COPY deploy/systemd/keybearer.env deploy/systemd/keybearer.env
COPY src src
# Files keep the age they had: without this they would look older than the stand-ins.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked

FROM ${BASE_IMAGE}
COPY --from=build /src/target/release/keybearer /usr/bin/keybearer
ENV KEYBEARER_CONFIG=/etc/keybearer/keybearer.yaml
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
EXPOSE 8080 9901
# Ready means that every required profile has a token. The admin address comes from the configuration.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["/usr/bin/keybearer", "status"]
ENTRYPOINT ["/usr/bin/keybearer"]
CMD ["run"]
