//! The Rust side of the gRPC contract is what its proto file says. `SPRINGHOUSE_GENERATE=1` writes it anew.

use prost::Message;
use std::path::Path;

#[test]
fn the_generated_code_is_that_of_the_proto_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptor = protox::compile(["springhouse/v1/feature_store.proto"], [root.join("proto")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    prost_build::Config::new()
        .btree_map(["."])
        .out_dir(folder.path())
        .compile_fds(descriptor.clone())
        .unwrap();
    let code = std::fs::read(folder.path().join("springhouse.v1.rs")).unwrap();
    let made = [("generated.rs", code), ("descriptor.bin", descriptor.encode_to_vec())];
    for (name, bytes) in made {
        let path = root.join("src/grpc").join(name);
        if std::env::var_os("SPRINGHOUSE_GENERATE").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&path).unwrap_or_default() == bytes,
            "src/grpc/{name} is not what the proto file says: run this test with SPRINGHOUSE_GENERATE=1"
        );
    }
}
