//! What a caller may do, and what a method asks for.

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// None.
    pub const NONE: Self = Self(0);
    /// Searches, reads of products and of the replica's status.
    pub const READ: Self = Self(1);
    /// Changes of the catalogue.
    pub const WRITE: Self = Self(1 << 1);
    /// Reports of what shoppers did.
    pub const FEEDBACK: Self = Self(1 << 2);
    /// Everything that an operator does: deploys, drains, takeovers, builds.
    pub const ADMIN: Self = Self(1 << 3);
    /// What a drill needs of a running service: to begin and end, and planned takeovers.
    pub const DRILL: Self = Self(1 << 4);
    /// Any of them.
    pub const ANY: Self = Self(0b1_1111);

    const NAMED: [(&'static str, Self); 5] = [
        ("read", Self::READ),
        ("write", Self::WRITE),
        ("feedback", Self::FEEDBACK),
        ("admin", Self::ADMIN),
        ("drill", Self::DRILL),
    ];

    /// One scope by its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = Self::NAMED.iter().find(|(known, _)| *known == name);
        found.map(|(_, scope)| *scope)
    }

    /// Those of a list with spaces between (RFC 6749, section 3.3). Unknown names give nothing: they may belong to another
    /// service.
    #[must_use]
    pub fn listed(names: &str) -> Self {
        let known = names.split(' ').filter_map(Self::named);
        known.fold(Self::NONE, Self::with)
    }

    /// Both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether one of `other` is among them.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Their names, joined by commas.
    #[must_use]
    pub fn names(self) -> String {
        let named = Self::NAMED.iter().filter(|(_, scope)| self.meets(*scope));
        let names: Vec<_> = named.map(|(name, _)| *name).collect();
        names.join(",")
    }
}

/// Any of these scopes opens the method at `path`; `None`: it is open to all. What is not known asks for `admin`, so a method
/// that was forgotten here is closed rather than open.
#[must_use]
pub fn needed(path: &str) -> Option<Scopes> {
    let split = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let (service, method) = split.unwrap_or_default();
    Some(match (service, method) {
        // Balancers, probes and the client's own health checks carry no token.
        ("grpc.health.v1.Health", _) => return None,
        ("grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection", _) => {
            Scopes::ANY
        }
        ("muster.v1.RankingService", _) => Scopes::READ,
        ("muster.v1.CatalogueService", "Get" | "Watch") => Scopes::READ,
        ("muster.v1.CatalogueService", "Apply") => Scopes::WRITE,
        ("muster.v1.FeedbackService", _) => Scopes::FEEDBACK,
        ("muster.v1.AdminService", "Status" | "BundleStatus" | "DrillStatus") => Scopes::ANY,
        ("muster.v1.AdminService", "TransferLease" | "BeginDrill" | "EndDrill" | "AbortDrill") => {
            Scopes::ADMIN.with(Scopes::DRILL)
        }
        _ => Scopes::ADMIN,
    })
}

/// Whether a call of this method is an operator's: those that are refused are told to the audit.
#[must_use]
pub fn operates(needed: Scopes) -> bool {
    needed.meets(Scopes::ADMIN) && !needed.meets(Scopes::READ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_from_a_list_and_unknown_names_give_nothing() {
        for (text, names) in [
            ("read write", "read,write"),
            ("  drill root read.all admin ", "admin,drill"),
            ("", ""),
            ("READ", ""),
        ] {
            assert_eq!(Scopes::listed(text).names(), names, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_closed_to_all_but_operators() {
        for (path, want) in [
            ("/grpc.health.v1.Health/Watch", None),
            ("/muster.v1.RankingService/Search", Some(Scopes::READ)),
            ("/muster.v1.CatalogueService/Apply", Some(Scopes::WRITE)),
            ("/muster.v1.CatalogueService/Erase", Some(Scopes::ADMIN)),
            ("/muster.v1.AdminService/Drain", Some(Scopes::ADMIN)),
            ("/grpc.health.v1.HealthX/Check", Some(Scopes::ADMIN)),
            ("/", Some(Scopes::ADMIN)),
            ("/x", Some(Scopes::ADMIN)),
            ("", Some(Scopes::ADMIN)),
            ("grpc.health.v1.Health/Check", Some(Scopes::ADMIN)),
            ("//grpc.health.v1.Health/Check", Some(Scopes::ADMIN)),
        ] {
            assert_eq!(needed(path), want, "{path}");
        }
    }

    #[test]
    fn only_calls_of_operators_are_told_when_refused() {
        assert!(operates(Scopes::ADMIN) && operates(Scopes::ADMIN.with(Scopes::DRILL)));
        assert!(!operates(Scopes::READ) && !operates(Scopes::ANY) && !operates(Scopes::WRITE));
    }
}
