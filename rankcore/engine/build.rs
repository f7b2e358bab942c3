//! Compiles the wire contract with a pure-Rust compiler, so a fresh machine needs no `protoc`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = [
        "muster/v1/ranking.proto",
        "muster/v1/catalogue.proto",
        "muster/v1/admin.proto",
        "muster/v1/deploy.proto",
        "muster/v1/feedback.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(files, [&root])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
