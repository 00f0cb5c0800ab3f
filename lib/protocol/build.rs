//! Compiles proto/kiteq.proto with protox, a protobuf compiler in Rust, so that a build needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "../../proto/kiteq.proto";
    println!("cargo:rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["../../proto"])?;
    prost_build::Config::new().bytes([".kiteq.BytesMessage"]).compile_fds(descriptors)?;
    Ok(())
}
