//! Prints the Rust code of one file of our gRPC, made without protoc: `xtask-grpc FOLDER FILE`;
//! with `--descriptors` also what a server needs to describe it (reflection).
//!
//! Apart from xtask so that nobody waits for a protobuf compiler who only wants to run a task;
//! `cargo xtask codegen` builds it, formats what it prints and compares or writes it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use prost::Message as _;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, file, described) = match arguments.as_slice() {
        [folder, file] => (folder, file, false),
        [folder, file, flag] if flag == "--descriptors" => (folder, file, true),
        _ => bail!("usage: xtask-grpc FOLDER FILE [--descriptors]"),
    };
    print!("{}", generate(folder, file, described)?);
    Ok(())
}

fn generate(folder: &str, file: &str, described: bool) -> Result<String> {
    let files = protox::compile([file], [folder])?;
    let mut bare = files.clone();
    for file in &mut bare.file {
        // Comments and places: for people who have the sources.
        file.source_code_info = None;
    }
    let package = files
        .file
        .iter()
        .find(|found| found.name() == file)
        .map(|found| found.package().to_owned())
        .context("the compiler does not give the file back")?;
    let out = Folder::new()?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .out_dir(&out.0)
        .compile_fds(files)?;
    let code = out.0.join(format!("{package}.rs"));
    let mut text = std::fs::read_to_string(&code).with_context(|| format!("{}", code.display()))?;
    if described {
        let bytes = bare.encode_to_vec();
        let literal = bytes.escape_ascii();
        text.push_str("/// The encoded descriptors of the file, for reflection.\n");
        text.push_str(&format!("pub const DESCRIPTORS: &[u8] = b\"{literal}\";\n"));
    }
    Ok(text)
}

/// A folder of our own: the generator writes files.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("warren-grpc-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Left behind, it is a few files in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_becomes_code_and_a_mistake_an_error() {
        let folder = Folder::new().expect("a folder");
        let root = folder.0.join("proto");
        std::fs::create_dir_all(&root).expect("a folder");
        let write = |text: &str| std::fs::write(root.join("a.proto"), text).expect("writes");
        let root = root.to_string_lossy().into_owned();
        write(
            "syntax = \"proto3\"; package a.v1; message M { bytes b = 1; } \
               service S { rpc Do(M) returns (M); }",
        );
        let code = generate(&root, "a.proto", false).expect("generates");
        assert!(!code.contains("DESCRIPTORS"), "{code}");
        let described = generate(&root, "a.proto", true).expect("generates");
        assert!(described.contains("DESCRIPTORS"), "{described}");
        assert!(code.contains("pub struct M"), "{code}");
        assert!(code.contains("::prost::bytes::Bytes"), "{code}");
        assert!(code.contains("pub trait S:"), "{code}");
        write("syntax = \"proto3\"; message M { bytes b = 1; bytes c = 1; }");
        assert!(generate(&root, "a.proto", false).is_err());
    }
}
