//! How files of a crate lie and name one another: one convention for folders, and no circles.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::tree::Tree;

/// Files that may name each other.
const ONE_THING: &[&[&str]] = &[
    // a graph, the ops that it holds, and the rewrites that ops answer with
    &[
        "crates/ir/src/dag.rs",
        "crates/ir/src/graph.rs",
        "crates/ir/src/op.rs",
        "crates/ir/src/ops/constant.rs",
        "crates/ir/src/rewrite.rs",
    ],
    // a tokenizer and the streams that it makes
    &["crates/text/src/stream.rs", "crates/text/src/tokenizer.rs"],
];

/// A module with a folder is the `mod.rs` in it.
pub fn folders_have_a_mod(tree: &Tree) -> Vec<String> {
    let modules = tree.with_extension("rs").filter_map(|file| file.path.strip_suffix(".rs"));
    let beside = |module: &&str| {
        let folder = format!("{module}/");
        tree.with_extension("rs").any(|file| file.path.starts_with(&folder))
    };
    modules
        .filter(beside)
        .map(|module| format!("{module}.rs lies beside {module}/, expected {module}/mod.rs"))
        .collect()
}

/// Files of a crate do not import each other in a circle. What is only handed on (`pub use`) is not imported, and what
/// the `mod.rs` of a folder defines is there for all below it.
pub fn no_circles(tree: &Tree) -> Vec<String> {
    let roots: BTreeSet<&str> =
        tree.with_extension("rs").filter_map(|file| file.path.split_once("/src/")).map(|(root, _)| root).collect();
    roots.into_iter().flat_map(|root| circles(&Crate::read(tree, root))).collect()
}

/// One shortest circle for each set of files that reach one another.
fn circles(house: &Crate<'_>) -> Vec<String> {
    let arrows = house.arrows();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut found = Vec::new();
    for start in arrows.keys() {
        let Some(circle) = shortest(&arrows, start) else { continue };
        let mut paths: Vec<&str> = circle.iter().filter_map(|room| house.path(room)).collect();
        let known = paths.iter().any(|path| seen.contains(path));
        seen.extend(&paths);
        if known || ONE_THING.iter().any(|files| paths.iter().all(|path| files.contains(path))) {
            continue;
        }
        paths.push(paths[0]);
        found.push(paths.join(" -> "));
    }
    found
}

/// The rooms of the shortest way from one to itself.
fn shortest<'a>(arrows: &'a Arrows, start: &'a Vec<String>) -> Option<Vec<&'a Vec<String>>> {
    let mut before: BTreeMap<&Vec<String>, &Vec<String>> = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(room) = open.pop_front() {
        for next in arrows.get(room).into_iter().flatten() {
            if next == start {
                let mut way = vec![room];
                while let Some(room) = way.last().and_then(|room| before.get(room)) {
                    way.push(room);
                }
                way.reverse();
                return Some(way);
            }
            if !before.contains_key(next) {
                before.insert(next, room);
                open.push_back(next);
            }
        }
    }
    None
}

/// Which modules import which.
type Arrows = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

/// The modules of a crate, each a file.
struct Crate<'a> {
    rooms: BTreeMap<Vec<String>, Room<'a>>,
}

/// A module and the names that it imports.
struct Room<'a> {
    path: &'a str,
    /// By the name that it has here.
    imports: BTreeMap<String, Vec<String>>,
    /// Those that are handed on.
    handed_on: BTreeSet<String>,
    /// Paths in the code.
    inline: Vec<Vec<String>>,
}

impl<'a> Crate<'a> {
    fn read(tree: &'a Tree, root: &str) -> Crate<'a> {
        let source = format!("{root}/src/");
        let files = tree.with_extension("rs").filter_map(|file| Some((file, file.path.strip_prefix(&source)?)));
        let rooms = files.map(|(file, below)| (module(below), Room::read(&file.path, &file.text, &module(below))));
        Crate { rooms: rooms.collect() }
    }

    fn path(&self, room: &[String]) -> Option<&str> {
        self.rooms.get(room).map(|room| room.path)
    }

    fn arrows(&self) -> Arrows {
        let mut arrows = BTreeMap::new();
        for (name, room) in &self.rooms {
            let imported = room.imports.iter().filter(|(name, _)| !room.handed_on.contains(*name));
            let paths = imported.map(|(_, path)| path.clone());
            let inline = room.inline.iter().filter_map(|path| self.absolute(name, room, path));
            let targets = paths.chain(inline).filter_map(|path| self.home(&path, 8));
            arrows.insert(name.clone(), targets.filter(|home| !name.starts_with(home)).collect());
        }
        arrows
    }

    /// A path in the code of a module, from the root of the crate.
    fn absolute(&self, name: &[String], room: &Room<'_>, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" | "super" | "self" => from_root(name, path),
            _ => {
                let below = [name, std::slice::from_ref(first)].concat();
                let start =
                    room.imports.get(first).cloned().or_else(|| self.rooms.contains_key(&below).then_some(below));
                Some([&start?[..], rest].concat())
            }
        }
    }

    /// The module that defines what a path names.
    fn home(&self, path: &[String], hops: usize) -> Option<Vec<String>> {
        let mut room = Vec::new();
        for (place, segment) in path.iter().enumerate() {
            let below = [&room[..], std::slice::from_ref(segment)].concat();
            if self.rooms.contains_key(&below) {
                room = below;
                continue;
            }
            let handed_on = self.rooms.get(&room)?.handed_on.contains(segment);
            let target = self.rooms[&room].imports.get(segment).filter(|_| handed_on && hops > 0);
            return match target {
                Some(target) => self.home(&[&target[..], &path[place + 1..]].concat(), hops - 1),
                None => Some(room),
            };
        }
        Some(room)
    }
}

impl<'a> Room<'a> {
    fn read(path: &'a str, text: &str, name: &[String]) -> Room<'a> {
        let mut room = Room { path, imports: BTreeMap::new(), handed_on: BTreeSet::new(), inline: Vec::new() };
        let product = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let mut tokens = tokens(product).into_iter().peekable();
        let mut public = false;
        while let Some(token) = tokens.next() {
            match token.as_str() {
                "use" => {
                    let tree: Vec<String> = tokens.by_ref().take_while(|token| token != ";").collect();
                    let mut leaves = Vec::new();
                    expand(&mut tree.iter().map(String::as_str), &[], &mut leaves);
                    for (path, alias) in leaves {
                        let Some(path) = from_root(name, &path) else { continue };
                        room.handed_on.extend(public.then(|| alias.clone()));
                        room.imports.insert(alias, path);
                    }
                    public = false;
                }
                "pub" => public = true,
                "(" | ")" | "in" => {}
                // of `pub(crate) use`
                "crate" | "super" | "self" if public && tokens.peek().is_some_and(|next| next == ")") => {}
                word if is_word(word) => {
                    public = false;
                    let mut path = vec![token];
                    while tokens.next_if(|next| next == "::").is_some() {
                        path.extend(tokens.next_if(|next| is_word(next)));
                    }
                    room.inline.extend((path.len() > 1).then_some(path));
                }
                _ => public = false,
            }
        }
        room
    }
}

/// `fusion/silu_mul.rs` is the module `fusion::silu_mul`.
fn module(below: &str) -> Vec<String> {
    let stem = below.strip_suffix(".rs").unwrap_or(below);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    stem.split('/').filter(|part| !["lib", "main", "mod"].contains(part)).map(str::to_owned).collect()
}

/// A path as a module writes it, from the root of its crate; `None` for what another crate may define.
fn from_root(name: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut base = name.to_vec();
    let mut rest = path;
    loop {
        match rest.first().map(String::as_str) {
            Some("crate") => base.clear(),
            Some("super") => drop(base.pop()),
            Some("self") => {}
            _ if rest.len() < path.len() => return Some([&base[..], rest].concat()),
            // a child: if there is none of this name, it is another crate
            Some(_) => return Some([&base[..], rest].concat()),
            None => return None,
        }
        rest = &rest[1..];
    }
}

/// The paths of a `use` tree with the names that they have.
fn expand<'t>(tokens: &mut impl Iterator<Item = &'t str>, before: &[String], leaves: &mut Vec<(Vec<String>, String)>) {
    let (mut path, mut alias, mut named) = (before.to_vec(), None, false);
    loop {
        match tokens.next() {
            Some("::" | "*") => {}
            Some("{") => {
                expand(tokens, &path, leaves);
                path = before.to_vec();
            }
            Some("as") => named = true,
            Some(word) if is_word(word) && named => (alias, named) = (Some(word.to_owned()), false),
            Some(word) if is_word(word) => path.push(word.to_owned()),
            end => {
                let mut leaf = std::mem::replace(&mut path, before.to_vec());
                let written = leaf.len() > before.len();
                // `a::{self, b}` names `a`
                leaf.pop_if(|last| last == "self" && !before.is_empty());
                let alias = alias.take().or_else(|| leaf.last().cloned()).filter(|_| written);
                leaves.extend(alias.map(|alias| (leaf, alias)));
                if end != Some(",") {
                    return;
                }
            }
        }
    }
}

/// Words, `::` and single signs; no comments, no strings.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    for line in code {
        // every other piece between quotes is a string
        for piece in line.split('"').step_by(2) {
            let piece = piece.split("//").next().unwrap_or_default();
            let mut rest = piece;
            while let Some(first) = rest.chars().next() {
                let word = rest.find(|c: char| !is_word_char(c)).unwrap_or(rest.len());
                let length = if word > 0 {
                    word
                } else if rest.starts_with("::") {
                    2
                } else {
                    first.len_utf8()
                };
                let (token, after) = rest.split_at(length);
                tokens.extend((!token.trim().is_empty()).then(|| token.to_owned()));
                rest = after;
            }
        }
    }
    tokens
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_word(token: &str) -> bool {
    token.starts_with(is_word_char)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_its_module() {
        let tree = Tree::of(&[("a/src/x.rs", ""), ("a/src/x/y.rs", ""), ("a/src/z/mod.rs", ""), ("a/src/z/w.rs", "")]);
        assert_eq!(folders_have_a_mod(&tree), ["a/src/x.rs lies beside a/src/x/, expected a/src/x/mod.rs"]);
    }

    #[test]
    fn files_that_import_each_other_are_found() {
        let found = |files: &[(&str, &str)]| no_circles(&Tree::of(files));
        let a = ("c/src/a.rs", "use crate::b::{self, One as Two};\n");
        assert!(found(&[a, ("c/src/b.rs", "use std::fmt;\n")]).is_empty());
        assert_eq!(found(&[a, ("c/src/b.rs", "use super::a::Name;\n")]), ["c/src/a.rs -> c/src/b.rs -> c/src/a.rs"]);
        let inline = ("c/src/b.rs", "fn f() { crate::a::g() }\n");
        assert_eq!(found(&[a, inline]), ["c/src/a.rs -> c/src/b.rs -> c/src/a.rs"]);
        let test = ("c/src/b.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::a::Name; }\n");
        assert!(found(&[a, test]).is_empty());
    }

    #[test]
    fn a_name_is_followed_to_the_file_that_defines_it() {
        let root = ("c/src/lib.rs", "mod a;\nmod b;\npub use a::Name;\npub(crate) use b::Other;\n");
        let (a, b) = (("c/src/a.rs", "use crate::Other;\n"), ("c/src/b.rs", "use crate::Name;\n"));
        assert_eq!(no_circles(&Tree::of(&[root, a, b])), ["c/src/a.rs -> c/src/b.rs -> c/src/a.rs"]);
        assert!(no_circles(&Tree::of(&[root, a, ("c/src/b.rs", "struct Other;")])).is_empty());
    }

    #[test]
    fn what_a_folder_defines_is_there_for_all_in_it() {
        let a = ("c/src/m/a.rs", "use super::Shared;\nuse super::b::B;\n");
        let folder = ("c/src/m/mod.rs", "mod a;\nmod b;\nstruct Shared;\nfn f() { a::g() }\n");
        assert!(no_circles(&Tree::of(&[folder, a, ("c/src/m/b.rs", "use crate::m::Shared;\n")])).is_empty());
        let back = Tree::of(&[folder, a, ("c/src/m/b.rs", "fn f() { super::a::g() }\n")]);
        assert_eq!(no_circles(&back), ["c/src/m/a.rs -> c/src/m/b.rs -> c/src/m/a.rs"]);
    }
}
