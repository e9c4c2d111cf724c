//! The images of `tests/on-target`: where they are, and what they say under QEMU.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// A set of images that are built together.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The target, as Rust calls it.
    pub target: &'static str,
    /// The profile of `tests/on-target/Cargo.toml`.
    pub profile: &'static str,
    /// What its package needs for them.
    pub features: &'static str,
    /// Their names.
    pub images: &'static [&'static str],
}

impl Build {
    /// The folder with the images: where `ON_TARGET_IMAGES` says that somebody built them, as `cargo`
    /// would have, or else where `cargo` builds them now.
    ///
    /// # Errors
    /// If they do not build.
    pub fn folder(&self) -> Result<PathBuf> {
        let built = match env::var_os("ON_TARGET_IMAGES") {
            Some(folder) => PathBuf::from(folder),
            None => self.build()?,
        };
        Ok(built.join(self.target).join(self.profile))
    }

    fn build(&self) -> Result<PathBuf> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folder = package.join("target");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.arg("build").arg("--manifest-path").arg(package.join("Cargo.toml"));
        cargo.arg("--target-dir").arg(&folder);
        cargo.args(["--target", self.target, "--profile", self.profile]);
        cargo.args(["--no-default-features", "--features", self.features]);
        cargo.args(self.images.iter().flat_map(|image| ["--bin", image]));
        let status = cargo.status().context("cargo does not start")?;
        ensure!(status.success(), "the images do not build: is {} installed?", self.target);
        Ok(folder)
    }
}

/// Runs an image on its target's board under QEMU, to its end, at so many nanoseconds an instruction (a
/// power of two, of which this is the exponent). Returns what it wrote.
///
/// # Errors
/// If it does not end well.
pub fn run(target: &str, image: &Path, icount_shift: u32) -> Result<Vec<u8>> {
    let board = match target {
        "thumbv7m-none-eabi" => ["qemu-system-arm", "mps2-an385"],
        "riscv32imac-unknown-none-elf" => ["qemu-system-riscv32", "virt"],
        _ => anyhow::bail!("there is no board for {target}"),
    };
    let [emulator, machine] = board;
    let output = Command::new(emulator)
        .args(["-machine", machine, "-bios", "none", "-nographic", "-icount"])
        .arg(format!("shift={icount_shift}"))
        .args(["-semihosting-config", "enable=on,target=native", "-kernel"])
        .arg(image)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{emulator} does not start"))?;
    let name = image.display();
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(output.stdout)
}
