//! Compiles the schemas. `protox` is a protobuf compiler in Rust, so that no `protoc` need be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir("schema/meridian")? {
        for file in std::fs::read_dir(folder?.path())? {
            files.push(file?.path());
        }
    }
    files.sort();
    println!("cargo:rerun-if-changed=schema");
    let descriptors = protox::compile(files, ["schema"])?;
    prost_build::Config::new()
        .bytes([".meridian"])
        .compile_fds(descriptors)?;
    Ok(())
}
