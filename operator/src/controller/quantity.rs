//! Kubernetes quantities, as far as they have to be read: sizes are compared, amounts are checked
//! before an API server would refuse a whole StatefulSet for one of them.

/// Parts into which a unit is divided: the smallest suffix is `n`.
const NANOS: u128 = 1_000_000_000;

/// The longest number of digits after a point that is read.
const MAX_FRACTION: usize = 9;

/// Reads a size such as `10Gi`, `1.5T`, `1073741824` or `1181116006400m` (the form in which an API
/// server returns `1.1Gi`) as a number of bytes.
///
/// - Units: the suffixes of Kubernetes; a fraction of a byte is rounded up, as Kubernetes does.
/// - Errors: `None` for text that is no size or doesn't fit. Exponents are no sizes.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u128> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = nanos(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty()
        || fraction.len() > MAX_FRACTION
        || (number.contains('.') && fraction.is_empty())
    {
        return None;
    }
    let mut nanos = whole.parse::<u128>().ok()?.checked_mul(factor)?;
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let rest = fraction.parse::<u128>().ok()?.checked_mul(factor)?;
        nanos = nanos.checked_add(rest.div_ceil(scale))?;
    }
    Some(nanos.div_ceil(NANOS))
}

/// Returns whether `text` is an amount of a resource as an API server takes it, such as `500m`,
/// `2`, `1.5Gi` or `1e3`; less than nothing is none.
#[must_use]
pub fn is_amount(text: &str) -> bool {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let is_number = number.matches('.').count() <= 1 && number.chars().any(|c| c.is_ascii_digit());
    let exponent = suffix.strip_prefix(['e', 'E']);
    let is_exponent = exponent.is_some_and(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && digits.len() <= 2 && digits.chars().all(|c| c.is_ascii_digit())
    });
    is_number && (is_exponent || nanos(suffix).is_some())
}

/// Returns the nanos of one unit with this suffix.
fn nanos(suffix: &str) -> Option<u128> {
    let binary = |power: u32| (1_u128 << (10 * power)) * NANOS;
    let decimal = |power: u32| 1_000_u128.pow(power) * NANOS;
    Some(match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => NANOS,
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => return None,
    })
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
        assert_eq!(parse_bytes("2E"), Some(2_000_000_000_000_000_000));
        assert_eq!(parse_bytes("8Ei"), Some(1 << 63));
    }

    #[test]
    fn a_size_in_the_words_of_the_api_server_is_equal_to_that_of_the_user() {
        assert_eq!(parse_bytes("1181116006400m"), Some(1_181_116_007));
        assert_eq!(parse_bytes("1.1Gi"), parse_bytes("1181116006400m"));
        assert_eq!(parse_bytes("1.0001Ki"), parse_bytes("1024102400u"));
    }

    #[test]
    fn what_is_no_size_is_none() {
        for text in [
            "", "Gi", "1.", ".5Gi", "1Xi", "-1Gi", "1e3", "1.5.5Gi", "1 Gi", "1mi",
        ] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_what_an_api_server_takes() {
        for text in [
            "500m", "2", "0.5", ".5", "1.", "1e3", "1E-3", "4Gi", "+1", "0", "3E",
        ] {
            assert!(is_amount(text), "{text}");
        }
        for text in [
            "", "lots", "-1", "1 Gi", "4gb", "1e", "1.2.3", ".", "m", "4GB",
        ] {
            assert!(!is_amount(text), "{text}");
        }
    }
}
