//! Addresses of sinks, taken apart, with their credentials kept out of everything that is shown.

use crate::error::{Error, Result};

/// An address of the form `scheme://user:password@host:port/path?query`. Not to be shown, as it may hold secrets.
pub(super) struct Address<'a> {
    pub(super) scheme: &'a str,
    /// As they stand there, percent-encoded.
    credentials: Option<&'a str>,
    /// Host and port.
    pub(super) authority: &'a str,
    /// With the slash that it begins with; may be empty.
    pub(super) path: &'a str,
    /// Without the question mark.
    pub(super) query: Option<&'a str>,
}

impl<'a> Address<'a> {
    /// Takes an address apart. `what` is what the error calls it.
    ///
    /// # Errors
    /// [`Error::Invalid`], which shows nothing of an address that could hold a secret.
    pub(super) fn parse(what: &'static str, url: &'a str, schemes: &[&str]) -> Result<Self> {
        let bad = |why| Err(bad(what, url, why));
        let Some((scheme, rest)) = url.split_once("://") else {
            return bad("it has no scheme, such as http://");
        };
        if !schemes.contains(&scheme) {
            return bad("its scheme is not one of this sink");
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return bad("it has spaces, control characters or letters beyond ASCII; write them as %XX");
        }
        if rest.contains('#') {
            return bad("it has a fragment (#), which is not for servers");
        }
        let (authority, behind) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if behind.contains('@') {
            return bad("it has an @ behind the host; write it %40, and in a password / as %2F and ? as %3F");
        }
        let (path, query) = match behind.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (behind, None),
        };
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((credentials, authority)) => (Some(credentials), authority),
            None => (None, authority),
        };
        if authority.is_empty() || authority.starts_with(':') {
            return bad("it has no host");
        }
        Ok(Self { scheme, credentials, authority, path, query })
    }

    /// The address without credentials and query.
    pub(super) fn shown(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.path)
    }

    /// User and password, decoded. `None` where a `%` is not followed by two digits, or they are not UTF-8.
    #[cfg(any(feature = "sink-http", feature = "sink-redis"))]
    pub(super) fn credentials(&self) -> Option<(String, Option<String>)> {
        let credentials = self.credentials.unwrap_or_default();
        match credentials.split_once(':') {
            Some((user, password)) => Some((decoded(user)?, Some(decoded(password)?))),
            None => Some((decoded(credentials)?, None)),
        }
    }

    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// Host and port. `None` where one of them is none.
    #[cfg(any(feature = "sink-http", feature = "sink-redis"))]
    pub(super) fn host_and_port(&self, default: u16) -> Option<(&'a str, u16)> {
        host_and_port(self.authority, default)
    }
}

/// Host and port; an address of IPv6 stands in brackets, which are taken off. `None` where one of them is none.
pub(super) fn host_and_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None if rest.is_empty() => default,
        None => return None,
    };
    (!host.is_empty()).then_some((host, port))
}

/// What is wrong with an address, without anything of it that could be a secret.
pub(super) fn bad(what: &'static str, url: &str, why: &'static str) -> Error {
    let could_be_secret = url.contains(['@', '?', '#']);
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    match (could_be_secret, scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')) {
        (false, _) => Error::invalid(what, url, why),
        (true, true) => Error::invalid(what, &format!("{scheme}://…"), why),
        (true, false) => Error::invalid(what, "…", why),
    }
}

/// With `%XX` made into the bytes that they stand for. `None` where that is not UTF-8, or no two digits follow.
#[cfg(any(feature = "sink-http", feature = "sink-redis"))]
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first == b'%' {
            let (digits, behind) = rest.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(all(test, any(feature = "sink-http", feature = "sink-redis")))]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<Address<'_>> {
        Address::parse("address", url, &["http", "redis"])
    }

    #[test]
    fn an_address_is_taken_apart_and_shown_without_its_secrets() {
        let address = parsed("http://me:p%40ss@host:81/a/b?token=x").unwrap();
        assert_eq!(address.credentials(), Some(("me".to_owned(), Some("p@ss".to_owned()))));
        assert_eq!((address.authority, address.path, address.query), ("host:81", "/a/b", Some("token=x")));
        assert_eq!(address.shown(), "http://host:81/a/b");

        let plain = parsed("redis://host").unwrap();
        assert!(!plain.has_credentials());
        assert_eq!((plain.path, plain.query, plain.shown().as_str()), ("", None, "redis://host"));
    }

    #[test]
    fn ports_are_numbers_and_hosts_may_be_ipv6() {
        let parts = |url| parsed(url).unwrap().host_and_port(7);
        assert_eq!(parts("http://host"), Some(("host", 7)));
        assert_eq!(parts("http://host:81/x"), Some(("host", 81)));
        assert_eq!(parts("http://[::1]:81"), Some(("::1", 81)));
        for url in ["http://host:", "http://host:x", "http://host:0", "http://host:65536", "http://[::1", "http://[]:1"]
        {
            assert_eq!(parts(url), None, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_taken_apart_is_refused_without_showing_a_secret() {
        for url in [
            "me:SECRET@host/path",
            "ftp://me:SECRET@host/",
            "http://me:SECRET@/path",
            "http://me:SE/CRET@host/path",
            "http://me:SE?CRET@host/path",
            "http://me:SE#CRET@host/path",
            "http://host/path?token=SECRET#x",
            "http://me:SECRET@host/ path",
            "me:SECRET@x://host/",
        ] {
            let Err(error) = parsed(url) else { panic!("{url} was taken") };
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("SE") && !shown.contains("CRET"), "{shown}");
        }
        // The control: an address that holds no secret is shown.
        let Err(error) = parsed("ftp://host/") else { panic!("it was taken") };
        assert!(error.to_string().contains("ftp://host/"), "{error}");
    }

    #[test]
    fn percent_signs_stand_before_two_digits() {
        assert_eq!(decoded("a%2Fb%c3%A9"), Some("a/bé".to_owned()));
        for text in ["%", "%2", "%zz", "%+1", "%ff", "é%"] {
            assert_eq!(decoded(text), None, "{text}");
        }
    }
}
