//! Builds the peer that is written in C, where its library is installed.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=c/dpdk.c");
    println!("cargo:rustc-check-cfg=cfg(dpdk)");
    let (Some(flags), Some(libs)) = (pkg_config("--cflags"), pkg_config("--libs")) else { return };
    let mut shim = cc::Build::new();
    shim.file("c/dpdk.c").opt_level(3).warnings(false);
    flags.split_whitespace().for_each(|flag| _ = shim.flag(flag));
    shim.compile("peer_dpdk");
    for library in libs.split_whitespace().filter_map(|flag| flag.strip_prefix("-l")) {
        println!("cargo:rustc-link-lib={library}");
    }
    println!("cargo:rustc-cfg=dpdk");
}

/// What pkg-config says of DPDK, if it knows it.
fn pkg_config(what: &str) -> Option<String> {
    let output = Command::new("pkg-config").args([what, "libdpdk"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
