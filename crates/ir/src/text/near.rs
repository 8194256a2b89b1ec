//! Suggestions for misspelled names.

/// The name with the smallest edit distance; `None` if most of the word would change.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = 1 + word.len() / 4;
    let near = known.into_iter().filter(|name| name.len().abs_diff(word.len()) <= most);
    let (distance, name) = near.map(|name| (distance(word, name), name)).min_by_key(|(distance, _)| *distance)?;
    (distance <= most).then_some(name)
}

/// The words after a misspelled name that suggest the nearest: ` (did you mean \`silu\`?)`, or nothing.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}

/// Edit distance; two swapped neighbours count once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let known = ["merge-linears", "fuse-swiglu", "fuse-silu-mul", "add"];
        assert_eq!(nearest("merge-linaers", known), Some("merge-linears"));
        assert_eq!(nearest("fuse_silu_mul", known), Some("fuse-silu-mul"));
        assert_eq!(nearest("ad", known), Some("add"));
        assert_eq!(nearest("everything", known), None);
        assert_eq!(nearest("", known), None);
    }
}
