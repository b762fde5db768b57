//! Keeps statements shallow enough for the stack.
//!
//! Planning walks over a statement by recursion, and a stack that overflows ends the process. The
//! parser bounds parentheses and the like, but reads chains (`a OR b OR c …`, `x UNION y UNION z …`)
//! in a loop, which makes trees as deep as the chain is long. `x[1][2]…` and `x[1].a.b…` are chains as
//! well: each subscript and each field is one level around those before. So chains are measured before they are
//! parsed, and tables in `FROM` are counted after.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::{Error, Location};

/// Operators of one expression. Planning takes time with their square, and a debug build about 4 KiB
/// of stack for each, see `THREAD_STACK_BYTES`.
const MAX_OPERATORS: usize = 1000;

/// Periods in the name of a column (`database.schema.table.column`); further ones take a field out of
/// a value.
const NAME_PERIODS: usize = 3;

/// Set operations of one statement.
const MAX_SET_OPERATIONS: usize = 500;

/// Tables in all `FROM` clauses of one statement; each is at least one step of a plan.
pub(crate) const MAX_TABLES: usize = 500;

/// Tables of a statement when every name of a common table expression is replaced by its definition:
/// about the number of leaves of the plan. Planning time and memory grow with it.
pub(crate) const MAX_EXPANDED_TABLES: usize = 10_000;

/// Refuses chains that are too long.
pub(crate) fn check_depth(tokens: &[TokenWithSpan]) -> Result<(), Error> {
    let mut open = vec![0_usize];
    let mut operators = 0;
    let mut set_operations = 0;
    let mut before = Before::Other;
    for token in tokens {
        if matches!(token.token, Token::Whitespace(_)) {
            continue;
        }
        let takes_part = takes_part(&token.token, before);
        before = before.then(&token.token);
        if takes_part && let Some(innermost) = open.last_mut() {
            *innermost += 1;
            operators += 1;
        }
        match part(&token.token) {
            Part::Opens => open.push(0),
            Part::Closes => {
                operators -= open.pop().unwrap_or_default();
                if open.is_empty() {
                    open.push(0);
                }
            }
            Part::Separates => {
                if let Some(innermost) = open.last_mut() {
                    operators -= std::mem::take(innermost);
                }
            }
            Part::SetOperation => set_operations += 1,
            Part::Operator => {
                if let Some(innermost) = open.last_mut() {
                    *innermost += 1;
                    operators += 1;
                }
            }
            Part::Other => {}
        }
        if operators > MAX_OPERATORS {
            let what = "operators in one expression; IN (…) takes long lists";
            return Err(too_long(MAX_OPERATORS, what, token));
        }
        if set_operations > MAX_SET_OPERATIONS {
            let what = "set operations (UNION and the like) in one statement";
            return Err(too_long(MAX_SET_OPERATIONS, what, token));
        }
    }
    Ok(())
}

fn too_long(limit: usize, what: &str, token: &TokenWithSpan) -> Error {
    let start = token.span.start;
    Error::Syntax {
        message: format!("more than {limit} {what}"),
        location: Some(Location {
            line: start.line,
            column: start.column,
        }),
    }
}

/// What stands before a token, as far as it says what `[` and `.` mean.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// A value, or a name with so many periods.
    Operand(usize),
    /// A period, the last of so many.
    Period(usize),
    Other,
}

impl Before {
    fn then(self, token: &Token) -> Self {
        match (self, token) {
            (Self::Operand(periods), Token::Period) => Self::Period(periods + 1),
            (Self::Period(periods), Token::Word(_) | Token::DoubleQuotedString(_)) => {
                Self::Operand(periods)
            }
            // What begins an array, not a name that has subscripts.
            (_, Token::Word(word)) if word.keyword == Keyword::ARRAY => Self::Other,
            (_, Token::Word(_) | Token::DoubleQuotedString(_)) => Self::Operand(0),
            // Periods after these always take a part out of a value.
            (_, Token::RParen | Token::RBracket | Token::RBrace) => Self::Operand(NAME_PERIODS),
            (_, token) if matches!(part(token), Part::Other) && *token != Token::Period => {
                Self::Operand(NAME_PERIODS)
            }
            _ => Self::Other,
        }
    }
}

/// Whether a token takes an element, a slice or a field out of what stands before it. The bracket that
/// closes does not take this back.
fn takes_part(token: &Token, before: Before) -> bool {
    match (token, before) {
        (Token::LBracket, Before::Operand(_)) => true,
        (Token::Period, Before::Operand(periods)) => periods >= NAME_PERIODS,
        _ => false,
    }
}

enum Part {
    Opens,
    Closes,
    Separates,
    SetOperation,
    Operator,
    Other,
}

/// What a token does to the depth. What is not known to be harmless counts as an operator.
fn part(token: &Token) -> Part {
    match token {
        Token::LParen | Token::LBracket | Token::LBrace => Part::Opens,
        Token::RParen | Token::RBracket | Token::RBrace => Part::Closes,
        Token::Comma | Token::SemiColon => Part::Separates,
        Token::Word(word) => match word.keyword {
            Keyword::SELECT | Keyword::WHEN | Keyword::THEN | Keyword::ELSE => Part::Separates,
            Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS => {
                Part::SetOperation
            }
            Keyword::AND
            | Keyword::OR
            | Keyword::XOR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::SIMILAR
            | Keyword::BETWEEN
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::DIV
            | Keyword::MEMBER
            | Keyword::OVERLAPS
            | Keyword::OPERATOR
            | Keyword::NOTNULL
            | Keyword::MATCH => Part::Operator,
            _ => Part::Other,
        },
        Token::EOF
        | Token::Period
        | Token::Whitespace(_)
        | Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::DollarQuotedString(_)
        | Token::NationalStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::EscapedStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::Placeholder(_) => Part::Other,
        _ => Part::Operator,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    fn checked(sql: &str) -> Result<(), Error> {
        let dialect = GenericDialect {};
        check_depth(
            &Tokenizer::new(&dialect, sql)
                .tokenize_with_location()
                .unwrap(),
        )
    }

    #[test]
    fn long_chains_are_refused_and_long_lists_are_not() {
        let many = |text: &str, by: &str| vec![text; 3000].join(by);
        assert!(checked(&format!("SELECT {}", many("1", " + "))).is_err());
        assert!(checked(&format!("SELECT {}", many("a", " OR "))).is_err());
        assert!(checked(&format!("SELECT a {}", many("IS NULL", " "))).is_err());
        assert!(checked(&format!("SELECT a{}", many("::INT", ""))).is_err());
        assert!(checked(&many("SELECT 1", " UNION ALL ")).is_err());
        assert!(checked(&format!("SELECT (1 + ({}))", many("1", " + "))).is_err());

        assert!(checked(&format!("SELECT a IN ({})", many("1", ", "))).is_ok());
        assert!(checked(&format!("SELECT {}", many("a + 1", ", "))).is_ok());
        assert!(checked(&format!("VALUES {}", many("(1 + 1, -2)", ", "))).is_ok());
        assert!(
            checked(&format!(
                "SELECT CASE {} END",
                many("WHEN a = 1 THEN 2", " ")
            ))
            .is_ok()
        );
    }

    #[test]
    fn chains_of_subscripts_and_fields_are_refused_and_arrays_are_not() {
        let many = |text: &str| text.repeat(100_000);
        for chain in ["[1:2]", "[1]", "['a']", "[ 1 ] ", "[1].a", "[a[1]]"] {
            for value in [
                "x", "\"x\"", "f(x)", "(x)", "[1]", "ARRAY[1]", "'x'", "$1", "t.x",
            ] {
                let sql = format!("SELECT {value}{}", many(chain));
                assert!(checked(&sql).is_err(), "{value}{chain}");
            }
        }
        assert!(checked(&format!("SELECT (x){}", many(".a"))).is_err());
        assert!(checked(&format!("SELECT x{}", many(".a"))).is_err());
        assert!(checked(&format!("SELECT x::INT{}", many("[]"))).is_err());

        let list = |item: &str| vec![item; 100_000].join(", ");
        for items in [
            "[1, 2]",
            "ARRAY[1, 2]",
            "x[1][2]",
            "x[1:2]",
            "[[1], [2]]",
            "a.b.c.d",
        ] {
            assert!(
                checked(&format!("SELECT {}", list(items))).is_ok(),
                "{items}"
            );
            assert!(
                checked(&format!("VALUES ({})", list(items))).is_ok(),
                "{items}"
            );
            assert!(
                checked(&format!("SELECT [{}]", list(items))).is_ok(),
                "{items}"
            );
        }
        let equal = vec!["a.b.c.d = e.f.g.h"; 400].join(" OR ");
        assert!(checked(&format!("SELECT {equal}")).is_ok());
        assert!(checked(&format!("SELECT x{}", "[1]".repeat(20))).is_ok());
    }

    #[test]
    fn more_closing_than_opening_brackets_are_left_to_the_parser() {
        assert!(checked("SELECT 1 + 1))) + 1").is_ok());
    }
}
