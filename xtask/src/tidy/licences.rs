//! The licences of the crates in Cargo.lock, checked against the list of `deny.toml`.

use crate::tree::{Licensed, Tree};

/// Each crate has a licence that `deny.toml` allows.
pub fn are_allowed(tree: &Tree) -> Vec<String> {
    if tree.licences.is_empty() {
        return Vec::new();
    }
    let Some(allowed) = tree.get("deny.toml").and_then(|file| list(&file.text)) else {
        return vec!["deny.toml has no `allow = [...]` of licences".to_owned()];
    };
    let wrong = |package: &Licensed| match package.licence.as_deref().map(|text| (text, permits(text, &allowed))) {
        None => Some(format!("`{}` names no licence", package.name)),
        Some((text, None)) => Some(format!("`{}` has a licence that is not an SPDX expression: {text}", package.name)),
        Some((text, Some(false))) => Some(format!("`{}` is licensed as {text}", package.name)),
        Some((_, Some(true))) => None,
    };
    tree.licences.iter().filter_map(wrong).collect()
}

/// The names in `allow = [...]`.
fn list(manifest: &str) -> Option<Vec<&str>> {
    let (_, rest) = manifest.split_once("\nallow = [")?;
    let (names, _) = rest.split_once(']')?;
    let lines = names.lines().map(|line| line.split('#').next().unwrap_or_default());
    Some(
        lines
            .flat_map(|line| line.split(','))
            .map(|name| name.trim().trim_matches('"'))
            .filter(|n| !n.is_empty())
            .collect(),
    )
}

/// Whether an SPDX expression can be satisfied with these licences; `None` if it is not an expression. `WITH` has the
/// highest precedence, then `AND`, then `OR`; old manifests write `/` for `OR`.
fn permits(expression: &str, allowed: &[&str]) -> Option<bool> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().collect::<Vec<_>>();
    words.reverse();
    let permitted = either(&mut words, allowed)?;
    words.is_empty().then_some(permitted)
}

/// `a OR b`. Words are popped from the end of the list.
fn either(words: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let mut permitted = both(words, allowed)?;
    while words.pop_if(|word| *word == "OR").is_some() {
        permitted |= both(words, allowed)?;
    }
    Some(permitted)
}

/// `a AND b`
fn both(words: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let mut permitted = one(words, allowed)?;
    while words.pop_if(|word| *word == "AND").is_some() {
        permitted &= one(words, allowed)?;
    }
    Some(permitted)
}

/// `MIT`, `Apache-2.0 WITH LLVM-exception` or `(…)`. An exception permits more than the licence alone.
fn one(words: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    match words.pop()? {
        "(" => {
            let permitted = either(words, allowed)?;
            (words.pop()? == ")").then_some(permitted)
        }
        ")" | "OR" | "AND" | "WITH" => None,
        name => {
            if words.pop_if(|word| *word == "WITH").is_some() {
                words.pop().filter(|exception| !["(", ")", "OR", "AND", "WITH"].contains(exception))?;
            }
            Some(allowed.contains(&name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: [&str; 3] = ["MIT", "Apache-2.0", "Unicode-3.0"];

    #[test]
    fn one_licence_of_several_is_enough_and_all_of_several_are_needed() {
        let permitted = [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "Apache-2.0 / GPL-3.0",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "MIT AND (GPL-3.0 OR Apache-2.0)",
            "Apache-2.0 WITH LLVM-exception",
            "GPL-3.0 WITH Classpath-exception-2.0 OR MIT",
            // AND has precedence over OR
            "GPL-3.0 AND LGPL-3.0 OR MIT",
            "MIT OR GPL-3.0 AND LGPL-3.0",
        ];
        for text in permitted {
            assert_eq!(permits(text, &ALLOWED), Some(true), "{text}");
        }
        let refused = [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Apache-2.0) AND GPL-3.0",
            "MIT AND (GPL-3.0 OR LGPL-3.0)",
            "GPL-3.0 WITH Classpath-exception-2.0",
            "MIT-0",
            "Apache-2.0+",
            "mit",
        ];
        for text in refused {
            assert_eq!(permits(text, &ALLOWED), Some(false), "{text}");
        }
        for text in
            ["", "MIT OR", "OR MIT", "MIT Apache-2.0", "(MIT", "MIT)", "()", "MIT WITH", "MIT WITH OR MIT", "AND"]
        {
            assert_eq!(permits(text, &ALLOWED), None, "{text}");
        }
    }

    #[test]
    fn licences_are_those_of_deny_toml() {
        let licensed =
            |name: &str, licence: Option<&str>| Licensed { name: name.to_owned(), licence: licence.map(str::to_owned) };
        let mut tree = Tree::of(&[("deny.toml", "[licenses]\nallow = [\n  \"MIT\", # short\n  \"ISC\",\n]\n")]);
        assert!(are_allowed(&tree).is_empty());
        tree.licences = vec![
            licensed("a", Some("ISC")),
            licensed("b", Some("MIT AND BSL-1.0")),
            licensed("c", None),
            licensed("d", Some("non-standard licence")),
        ];
        assert_eq!(
            are_allowed(&tree),
            [
                "`b` is licensed as MIT AND BSL-1.0",
                "`c` names no licence",
                "`d` has a licence that is not an SPDX expression: non-standard licence",
            ]
        );
        tree.files.clear();
        assert_eq!(are_allowed(&tree), ["deny.toml has no `allow = [...]` of licences"]);
    }
}
