#!/bin/sh
# Builds target/debian/keybearer_VERSION_ARCH.deb: the release binary, with what it writes about itself (completions and
# man pages), packed by cargo-deb as [package.metadata.deb] in Cargo.toml says.
set -eu
cd "$(dirname "$0")/../.."

: "${CARGO:=cargo}"
if ! command -v dpkg >/dev/null; then
  echo 'build.sh: dpkg is missing: build the package on Debian or Ubuntu' >&2
  exit 1
fi
if ! $CARGO deb --version >/dev/null 2>&1; then
  echo 'build.sh: cargo-deb is missing: cargo install cargo-deb --locked' >&2
  exit 1
fi

$CARGO build --release --locked
target=${CARGO_TARGET_DIR:-target}

# What the binary says of itself, where the metadata looks for it.
made=target/deb
rm -rf "$made"
mkdir -p "$made/man"
"$target/release/keybearer" completions bash > "$made/keybearer.bash"
"$target/release/keybearer" completions zsh > "$made/_keybearer"
"$target/release/keybearer" completions fish > "$made/keybearer.fish"
"$target/release/keybearer" man > "$made/man/keybearer.1"
for command in init run check explain token doctor status switch reload demo schema completions; do
  "$target/release/keybearer" man "$command" > "$made/man/keybearer-$command.1"
done
gzip -9n "$made"/man/*.1
# Debian wants the changelog compressed, and in its own form.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
{
  printf 'keybearer (%s) unstable; urgency=medium\n\n' "$version"
  printf '  * What has changed is in /usr/share/doc/keybearer/changelog.gz.\n\n'
  printf ' -- The Keybearer maintainers <maintainers@keybearer.example>  %s\n' "$(date -R -u -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}")"
} | gzip -9n > "$made/changelog.Debian.gz"
gzip -9nc CHANGELOG.md > "$made/changelog.gz"

# Built above: cargo-deb only packs, without the symbols.
$CARGO deb --no-build --quiet "$@"
