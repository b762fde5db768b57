//! Kubernetes quantities of storage, as far as two of them have to be compared.

/// Reads a quantity such as `10Gi`, `1.5T` or `1073741824` as a number of bytes.
///
/// - Units: the suffixes of Kubernetes for bytes; a fraction of a byte is dropped.
/// - Errors: `None` for text that is no quantity of bytes or doesn't fit.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u128> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: u128 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let bytes = whole.parse::<u128>().ok()?.checked_mul(factor)?;
    if fraction.is_empty() {
        return Some(bytes);
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    bytes.checked_add(fraction.parse::<u128>().ok()?.checked_mul(factor)? / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_size_in_other_words_is_equal() {
        assert_eq!(parse_bytes("1Gi"), parse_bytes("1024Mi"));
        assert_eq!(parse_bytes("1.5Gi"), parse_bytes("1536Mi"));
        assert_eq!(parse_bytes("1G"), Some(1_000_000_000));
        assert_eq!(parse_bytes("7"), Some(7));
    }

    #[test]
    fn what_is_no_size_is_none() {
        for text in [
            "", "Gi", "1.", ".5Gi", "1Xi", "-1Gi", "1e3", "1.5.5Gi", "1 Gi",
        ] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }
}
