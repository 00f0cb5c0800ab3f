//! What somebody who misspelled a name probably meant.

/// Names that differ by more than a third of their letters are not alike.
const LIKENESS_MIN: f64 = 0.66;

/// The known name that is most like `name`, if one is alike.
#[must_use]
pub fn nearest<'known>(name: &str, known: impl IntoIterator<Item = &'known str>) -> Option<&'known str> {
    let name = name.to_lowercase();
    let likeness = |candidate: &str| strsim::normalized_damerau_levenshtein(&name, &candidate.to_lowercase());
    let scored = known.into_iter().map(|candidate| (likeness(candidate), candidate));
    let best = scored.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (best.0 >= LIKENESS_MIN).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_name_finds_the_one_that_was_meant() {
        let known = ["deliverySeconds", "deliveryWindow", "recoverSeconds", "db"];
        assert_eq!(nearest("deliveryWindw", known), Some("deliveryWindow"));
        assert_eq!(nearest("DELIVERYSECONDS", known), Some("deliverySeconds"));
        assert_eq!(nearest("colour", known), None);
    }
}
