//! The header says what the Rust sources do, and the library exports what the header says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_header_declares_what_the_sources_define() {
    let header = fs::read_to_string(header()).expect("the header is there");
    let (written, generated) = (Interface::of(&header), Interface::of(&generated_header()));
    assert_eq!(written.functions, generated.functions);
    assert_eq!(written.types, generated.types);
    assert_eq!(written.constants, generated.constants);
    assert!(written.types.contains_key("pool_config"), "the comparison sees structs");
    assert!(written.types.contains_key("pool_error"), "the comparison sees enums");
}

#[test]
fn the_library_exports_what_the_header_declares() {
    let header = fs::read_to_string(header()).expect("the header is there");
    let declared = Interface::of(&header).functions.into_keys().collect::<BTreeSet<_>>();
    assert_eq!(exported_symbols(&built_library()), declared);
}

#[test]
fn the_manual_names_each_function() {
    let manual = Path::new(PACKAGE).join("man/libmempool.3");
    let manual = fs::read_to_string(manual).expect("the manual is there");
    let header = fs::read_to_string(header()).expect("the header is there");
    for function in Interface::of(&header).functions.keys() {
        let named = manual.lines().any(|line| line.split(' ').nth(1) == Some(function));
        assert!(named, "{function}");
    }
}

fn header() -> PathBuf {
    Path::new(PACKAGE).join("include/memory_pool.h")
}

/// The header that `cbindgen` makes of the sources.
fn generated_header() -> String {
    let mut config = cbindgen::Config {
        language: cbindgen::Language::C,
        style: cbindgen::Style::Tag,
        usize_is_size_t: true,
        documentation: false,
        no_includes: true,
        ..cbindgen::Config::default()
    };
    // They are named by their aliases wherever they are used, which cbindgen does not follow.
    config.export.include = [
        "pool_config",
        "pool_stats",
        "pool_error",
        "pool_damage",
        "pool_advice",
        "pool_class_config",
    ]
    .map(Into::into)
    .into();
    config.export.rename = [("AnyBool", "bool"), ("AnyError", "pool_error_t")]
        .map(|(rust, c)| (rust.into(), c.into()))
        .into();
    let sources = fs::read_dir(Path::new(PACKAGE).join("src")).expect("the sources are there");
    let mut header = Vec::new();
    sources
        .map(|source| source.expect("its name can be read").path())
        .fold(cbindgen::Builder::new().with_config(config), cbindgen::Builder::with_src)
        .generate()
        .expect("cbindgen understands the sources")
        .write(&mut header);
    String::from_utf8(header).expect("cbindgen writes UTF-8")
}

/// The shared library, built in a place of its own.
fn built_library() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("library");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--manifest-path"])
        .arg(Path::new(PACKAGE).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status();
    assert!(built.expect("cargo runs").success());
    target.join("debug/libmempool.so")
}

fn exported_symbols(library: &Path) -> BTreeSet<String> {
    let nm = Command::new("nm").args(["-D", "--defined-only", "-P"]).arg(library).output();
    let listing = String::from_utf8(nm.expect("nm runs").stdout).expect("symbols are ASCII");
    listing.lines().filter_map(|line| line.split(' ').next()).map(Into::into).collect()
}

/// What a header declares, without comments and layout.
#[derive(Default)]
struct Interface {
    /// Prototypes, by name.
    functions: BTreeMap<String, String>,
    /// Fields of structs, values of enums, and prototypes of function pointers, by name.
    types: BTreeMap<String, Vec<String>>,
    /// Macros that stand for numbers.
    constants: BTreeMap<String, u64>,
}

impl Interface {
    fn of(header: &str) -> Self {
        let mut interface = Self::default();
        let text = without_comments(header).replace("\\\n", " ").replace("extern \"C\" {", "");
        let (directives, code): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| line.starts_with('#'));
        for directive in directives {
            interface.add_constant(directive);
        }
        for statement in statements(&code.join(" ")) {
            interface.add(&statement);
        }
        interface
    }

    fn add_constant(&mut self, directive: &str) {
        let mut words = directive.split_whitespace();
        if let (Some("#define"), Some(name), Some(value)) =
            (words.next(), words.next(), words.next())
            && let Some(value) = number(value)
        {
            self.constants.insert(name.into(), value);
        }
    }

    fn add(&mut self, statement: &[String]) {
        let find = |word: &str| statement.iter().position(|token| token == word);
        let text = statement.join(" ");
        let is_typedef = statement.first().is_some_and(|word| word == "typedef");
        if let (Some(open), Some(close)) = (find("{"), find("}")) {
            let members = statement[open + 1..close].split(|token| token == ";" || token == ",");
            let members =
                members.map(|member| member.join(" ")).filter(|member| !member.is_empty());
            self.types.insert(statement[open - 1].clone(), members.collect());
        } else if let (Some(open), true) = (find("("), is_typedef) {
            self.types.insert(statement[open + 2].clone(), vec![text]);
        } else if let Some(open) = find("(") {
            self.functions.insert(statement[open - 1].clone(), text);
        }
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches('u');
    match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => digits.parse().ok(),
    }
}

fn without_comments(text: &str) -> String {
    let mut pieces = text.split("/*");
    let code = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(code, |code, piece| code + piece.split_once("*/").expect("comments end").1)
}

/// The tokens of each declaration; a brace that closes nothing is dropped.
fn statements(code: &str) -> Vec<Vec<String>> {
    let spaced = "(){},;*".chars().fold(code.to_owned(), |code, punctuation| {
        code.replace(punctuation, &format!(" {punctuation} "))
    });
    let (mut statements, mut statement, mut depth) = (Vec::new(), Vec::new(), 0);
    for token in spaced.split_whitespace() {
        match token {
            "{" => depth += 1,
            "}" if depth == 0 => continue,
            "}" => depth -= 1,
            ";" if depth == 0 => {
                statements.push(std::mem::take(&mut statement));
                continue;
            }
            _ => {}
        }
        statement.push(token.to_owned());
    }
    statements
}
