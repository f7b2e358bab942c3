#!/usr/bin/env bash
# Builds an example client that is not in Python: `scripts/examples.sh go` or `typescript`. Everything that is fetched
# or generated goes into .build/examples/NAME; the sources are copied there.
# Exit code 4: something that it needs is not here; the text says what.
set -euo pipefail
cd "$(dirname "$0")/.."
language=${1:?go or typescript}
out=.build/examples/$language

missing() { echo "$1" >&2; exit 4; }

mkdir -p "$out"
case $language in
  go)
    command -v go >/dev/null || missing "go is not installed (apt-get install golang-go)"
    cp examples/go/main.go examples/go/go.mod examples/go/go.sum "$out"/
    (cd "$out" && go mod download) || missing "the Go modules cannot be fetched; is there a network?"
    (cd "$out" && GOBIN=$PWD/bin go install tool)
    mkdir -p "$out"/musterv1
    package=muster.example/shop/musterv1
    options=()
    for file in proto/muster/v1/*.proto; do
      options+=("--go_opt=M${file#proto/}=$package" "--go-grpc_opt=M${file#proto/}=$package")
    done
    # The compiler that grpcio-tools carries, with Go's own plug-ins.
    PATH="$PWD/$out/bin:$PATH" .venv/bin/python -m grpc_tools.protoc -Iproto "${options[@]}" \
      --go_out="$out" --go_opt=module=muster.example/shop \
      --go-grpc_out="$out" --go-grpc_opt=module=muster.example/shop proto/muster/v1/*.proto
    (cd "$out" && go vet . && go build -o shop .)
    ;;
  typescript)
    command -v npm >/dev/null || missing "npm is not installed (apt-get install npm)"
    cp examples/typescript/{package.json,tsconfig.json,shop.ts} "$out"/
    if ! cmp --silent "$out"/package.json "$out"/node_modules/.of-package.json; then
      (cd "$out" && npm install --silent --no-audit --no-fund --no-package-lock) ||
        missing "the npm packages cannot be fetched; is there a network?"
      cp "$out"/package.json "$out"/node_modules/.of-package.json
    fi
    # Types at build time; at run time the contract itself is read.
    mkdir -p "$out"/proto
    cp -r proto/muster "$out"/proto/
    (cd "$out" && node_modules/.bin/proto-loader-gen-types --grpcLib=@grpc/grpc-js --outDir=generated --includeDirs=proto \
      --longs=Number --enums=String --defaults --oneofs muster/v1/{ranking,catalogue}.proto >/dev/null && node_modules/.bin/tsc)
    ;;
  *)
    echo "no example is written in $language; there are: go, typescript" >&2
    exit 2
    ;;
esac
