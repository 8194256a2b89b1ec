//! Tells the kernels of the CPU how they are optimized, which is the profile's choice for this package.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo:rustc-env=SMELT_KERNEL_OPT_LEVEL={level}");
}
