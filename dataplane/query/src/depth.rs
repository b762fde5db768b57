//! Keeps statements shallow enough for the stack.
//!
//! Planning walks over a statement by recursion, and a stack that overflows ends the process. The
//! parser bounds parentheses and the like, but reads chains (`a OR b OR c …`, `x UNION y UNION z …`)
//! in a loop, which makes trees as deep as the chain is long. So chains are measured before they are
//! parsed, and tables in `FROM` are counted after.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::{Error, Location};

/// Operators of one expression. Planning takes time with their square, and a debug build about 4 KiB
/// of stack for each, see `THREAD_STACK_BYTES`.
const MAX_OPERATORS: usize = 1000;

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
    for token in tokens {
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
    fn more_closing_than_opening_brackets_are_left_to_the_parser() {
        assert!(checked("SELECT 1 + 1))) + 1").is_ok());
    }
}
