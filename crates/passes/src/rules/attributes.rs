//! Attributes with captures: possible values of a capture, and the attribute once captures are bound.

use std::collections::HashMap;

use ir::{AttrValue, OpInfo};

/// Possible values of a capture: the samples below that fit at every use, `None` for an absent attribute. Empty if
/// nothing is known.
pub(super) type Kinds = Vec<Option<AttrValue>>;

/// One value of each kind of attribute.
pub(super) fn samples() -> [AttrValue; 4] {
    [integer(4), AttrValue::Float(0.5), AttrValue::Word("bf16".to_owned()), AttrValue::List(vec![integer(4); 2])]
}

/// An integer as an attribute.
pub(super) fn integer(value: i64) -> AttrValue {
    AttrValue::Int(value)
}

/// The name of a capture that is the whole value.
pub(super) fn whole(value: &AttrValue) -> Option<&str> {
    match value {
        AttrValue::Capture(name) => Some(name),
        _ => None,
    }
}

/// Whether a value is `_`.
pub(super) fn is_anything(value: &AttrValue) -> bool {
    matches!(value, AttrValue::Word(word) if word == "_")
}

/// Names of all captures, and `_` for each `_`.
pub(super) fn captures(value: &AttrValue) -> Vec<&str> {
    match value {
        AttrValue::Capture(name) => vec![name],
        AttrValue::Word(_) if is_anything(value) => vec!["_"],
        AttrValue::List(items) | AttrValue::Call(_, items) => items.iter().flat_map(captures).collect(),
        _ => Vec::new(),
    }
}

/// The value with all captures replaced; `None` if one is not bound.
pub(super) fn substitute(value: &AttrValue, of: &dyn Fn(&str) -> Option<AttrValue>) -> Option<AttrValue> {
    let list = |items: &[AttrValue]| items.iter().map(|item| substitute(item, of)).collect::<Option<Vec<_>>>();
    Some(match value {
        AttrValue::Capture(name) => of(name)?,
        AttrValue::Word(_) if is_anything(value) => of("_")?,
        AttrValue::List(items) => AttrValue::List(list(items)?),
        AttrValue::Call(name, items) => AttrValue::Call(name.clone(), list(items)?),
        value => value.clone(),
    })
}

/// The possible values of all captures of a value that is the attribute `name` of an op.
pub(super) fn kinds(info: &OpInfo, name: &str, value: &AttrValue) -> Kinds {
    let fits = |sample: &AttrValue| {
        let value = substitute(value, &|_| Some(sample.clone()));
        value.is_some_and(|value| (info.read_attr)(name, Some(&value)).is_ok())
    };
    let mut kinds: Kinds = samples().into_iter().filter(fits).map(Some).collect();
    if (whole(value).is_some() || is_anything(value)) && (info.read_attr)(name, None).is_ok() {
        kinds.push(None);
    }
    kinds
}

/// Why a value with captures of these kinds is invalid as the attribute `name` of an op.
pub(super) fn misfit(
    info: &OpInfo,
    name: &str,
    value: &AttrValue,
    known: &HashMap<String, Kinds>,
) -> Result<(), String> {
    let kinds = |capture: &str| known.get(capture).map_or(&[][..], Vec::as_slice);
    let names = captures(value);
    if names.iter().any(|capture| kinds(capture).is_empty()) {
        return Ok(());
    }
    for capture in &names {
        for kind in kinds(capture) {
            let Some(sample) = kind else {
                let absent = if whole(value).is_some() { (info.read_attr)(name, None).err() } else { None };
                absent.map_or(Ok(()), |reason| Err(format!("where `${capture}` is absent: {reason}")))?;
                continue;
            };
            let of = |other: &str| match other == *capture {
                true => Some(sample.clone()),
                false => kinds(other).iter().flatten().next().cloned(),
            };
            if let Some(value) = substitute(value, &of)
                && let Err(reason) = (info.read_attr)(name, Some(&value))
            {
                return Err(format!("where `${capture}` is {sample}: {reason}"));
            }
        }
    }
    Ok(())
}
