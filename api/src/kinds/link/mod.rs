//! Links: every device that is neither a bridge nor an end of a veth pair. The type of a link says
//! which fields it has besides those of every device.

mod base;
mod dummy;
mod ipvlan;
mod macvlan;
mod vlan;
mod vxlan;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::LazyLock};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Object, OneOf, RefOr, Schema, schema::AdditionalProperties},
};

pub use self::{base::*, dummy::*, ipvlan::*, macvlan::*, vlan::*, vxlan::*};
use super::{
    Endpoint, EndpointObserved, Kind, Resource,
    checks::{check_default_interface, check_labels},
};
use crate::{
    Address, Code, FieldError, Name,
    parse::{field_names, nest_field_error, parse},
    string_enum::string_enum,
    topology::{default_fields, omit_defaults},
};

/// The list of link types.
///
/// It invokes a callback macro once with all rows, as [`resource_kinds!`](crate::resource_kinds)
/// does. A row names the variant of [`LinkType`], the type of its own fields (at the root of this
/// crate), its name in ip-link(8), which is also that of its driver's module in the daemon, and a
/// description for people.
#[macro_export]
macro_rules! link_types {
    ($callback:path) => {
        $callback! {
            Dummy(DummyFields) dummy "dummy device";
            Macvlan(MacvlanFields) macvlan "device with a MAC address of its own on another";
            Ipvlan(IpvlanFields) ipvlan "device with IP addresses of its own on another";
            Vlan(VlanFields) vlan "VLAN on a device";
            Vxlan(VxlanFields) vxlan "tunnel of Ethernet frames through UDP";
        }
    };
}

/// Fields that only one type of link has.
pub trait LinkTypeFields {
    /// True if `mac` may be set.
    const TAKES_MAC: bool = true;

    /// Returns the base that the link is created on.
    fn base(&self) -> Base<'_> {
        Base::Alone
    }

    /// Returns the addresses by whose routes the link's own packets leave, where no lower device
    /// says it.
    fn routed_addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    /// Returns the addresses to which flooded frames are sent.
    fn remotes(&self) -> &[Address] {
        &[]
    }

    /// Returns true if the link has a MAC address of its own where none is asked for; else the
    /// kernel chooses, such as the lower device's.
    fn has_own_mac(&self) -> bool {
        true
    }

    /// Checks the fields.
    ///
    /// # Errors
    /// The first field that is wrong.
    fn check(&self) -> Result<(), FieldError> {
        Ok(())
    }
}

macro_rules! define_link_types {
    ($($type:ident($fields:ident) $name:ident $description:literal;)+) => {
        string_enum! {
            /// The types of links, as ip-link(8) names them.
            #[serde(rename_all = "lowercase")]
            pub enum LinkType as "a link type" {
                $(
                    #[doc = concat!("A ", $description, ".")]
                    $type = stringify!($name),
                )+
            }
        }

        /// The type of a link, with the fields that only this type has.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        pub enum LinkFields {
            $(
                #[doc = concat!("A ", $description, ".")]
                $type($fields),
            )+
        }

        impl LinkFields {
            /// Returns the type.
            pub const fn link_type(&self) -> LinkType {
                match self {
                    $(Self::$type(_) => LinkType::$type,)+
                }
            }

            /// Returns the base that the link is created on.
            pub fn base(&self) -> Base<'_> {
                match self {
                    $(Self::$type(fields) => fields.base(),)+
                }
            }

            /// Returns true if the link has a MAC address of its own where none is asked for.
            pub fn has_own_mac(&self) -> bool {
                match self {
                    $(Self::$type(fields) => fields.has_own_mac(),)+
                }
            }

            /// Returns the addresses by whose routes the link's own packets leave.
            pub fn routed_addresses(&self) -> Vec<IpAddr> {
                match self {
                    $(Self::$type(fields) => fields.routed_addresses(),)+
                }
            }

            /// Returns the addresses to which flooded frames are sent.
            pub fn remotes(&self) -> &[Address] {
                match self {
                    $(Self::$type(fields) => fields.remotes(),)+
                }
            }

            fn check(&self) -> Result<(), FieldError> {
                match self {
                    $(Self::$type(fields) => fields.check(),)+
                }
            }

            fn parse(link_type: LinkType, fields: &Value) -> Result<Self, FieldError> {
                match link_type {
                    $(LinkType::$type => parse(fields).map(Self::$type),)+
                }
            }
        }

        impl LinkType {
            /// Returns the names of the fields that only this type has.
            pub fn field_names(self) -> &'static [&'static str] {
                match self {
                    $(Self::$type => field_names::<$fields>(),)+
                }
            }

            const fn takes_mac(self) -> bool {
                match self {
                    $(Self::$type => <$fields>::TAKES_MAC,)+
                }
            }

            fn schema_of_fields(self) -> RefOr<Schema> {
                match self {
                    $(Self::$type => $fields::schema(),)+
                }
            }

            fn add_schemas(self, schemas: &mut Vec<(String, RefOr<Schema>)>) {
                match self {
                    $(Self::$type => $fields::schemas(schemas),)+
                }
            }
        }
    };
}

link_types!(define_link_types);

/// A link as it should be (`ip-link(8)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The resource's name.
    pub name: Name,
    /// Labels for filtering.
    pub labels: BTreeMap<String, String>,
    /// Its type, with the fields of that type.
    #[serde(flatten)]
    pub fields: LinkFields,
    /// The fields of every device.
    #[serde(flatten)]
    pub device: Endpoint,
}

/// The fields of every resource.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LinkHead {
    /// The resource's name.
    name: Name,
    /// Labels for filtering.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The fields of links of all types.
static FIELDS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let own = LinkType::ALL.into_iter().flat_map(LinkType::field_names);
    let names = field_names::<LinkHead>().iter().chain(&["type"]);
    let names = names.chain(field_names::<Endpoint>()).chain(own);
    names.copied().collect()
});

impl Link {
    /// Returns the device's name: the resource's, unless another is asked for.
    pub fn device_name(&self) -> &str {
        match &self.device.interface {
            Some(interface) => interface.as_str(),
            None => self.name.as_str(),
        }
    }

    fn check_mac(&self) -> Result<(), FieldError> {
        let link_type = self.fields.link_type();
        match self.device.mac {
            Some(mac) if !link_type.takes_mac() => {
                let detail = format!(
                    "a link of type {link_type} has no MAC address of its own: leave {mac} out"
                );
                Err(FieldError::at(Code::InvalidField, &["mac"], detail))
            }
            _ => Ok(()),
        }
    }

    fn from_fields(mut fields: Map<String, Value>) -> Result<Self, FieldError> {
        let Some(link_type) = fields.remove("type") else {
            return Err(FieldError::new(
                Code::InvalidField,
                "/type",
                format!("missing field `type`, {}", expected_types()),
            ));
        };
        let link_type: LinkType = parse(&link_type).map_err(|error| error.below(&["type"]))?;

        let mut take = |names: &[&str]| {
            let taken = names.iter().filter_map(|name| fields.remove_entry(*name));
            Value::Object(taken.collect())
        };
        let head = take(field_names::<LinkHead>());
        let device = take(field_names::<Endpoint>());
        let own = take(link_type.field_names());
        if let Some(unknown) = fields.keys().next() {
            return Err(unknown_field(link_type, unknown));
        }
        let LinkHead { name, labels } = parse(&head)?;
        Ok(Self {
            name,
            labels,
            fields: LinkFields::parse(link_type, &own)?,
            device: parse(&device)?,
        })
    }
}

fn expected_types() -> String {
    let types = LinkType::ALL.map(|known| format!("`{known}`"));
    format!("expected one of {}", types.join(", "))
}

fn unknown_field(link_type: LinkType, field: &str) -> FieldError {
    let mut others = LinkType::ALL.into_iter();
    let detail = match others.find(|other| other.field_names().contains(&field)) {
        Some(other) => format!("`{field}` is a field of type {other}, and this is a {link_type}"),
        None => {
            let known: Vec<String> = [field_names::<LinkHead>(), &["type"]]
                .concat()
                .iter()
                .chain(link_type.field_names())
                .chain(field_names::<Endpoint>())
                .map(|name| format!("`{name}`"))
                .collect();
            format!(
                "unknown field `{field}`, expected one of {}",
                known.join(", ")
            )
        }
    };
    FieldError::at(Code::UnknownField, &[field], detail)
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LinkVisitor;

        impl<'de> Visitor<'de> for LinkVisitor {
            type Value = Link;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a link")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Link, A::Error> {
                let mut fields = Map::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if fields.contains_key(&key) {
                        return Err(de::Error::custom(format!("duplicate field `{key}`")));
                    }
                    fields.insert(key, value);
                }
                Link::from_fields(fields).map_err(nest_field_error)
            }
        }

        deserializer.deserialize_struct("Link", FIELDS.as_slice(), LinkVisitor)
    }
}

impl PartialSchema for Link {
    /// Returns one object with the fields of every type; the server refuses those of other types.
    fn schema() -> RefOr<Schema> {
        let mut link = Object::with_type(utoipa::openapi::Type::Object);
        link.description = Some("A link as it should be (`ip-link(8)`).".into());
        link.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        add_properties(&mut link, LinkHead::schema());
        let name = <LinkType as ToSchema>::name();
        let link_type = RefOr::Ref(utoipa::openapi::Ref::from_schema_name(name));
        link.properties.insert("type".into(), link_type);
        link.required = vec!["name".into(), "type".into()];
        for link_type in LinkType::ALL {
            add_properties(&mut link, link_type.schema_of_fields());
        }
        add_properties(&mut link, Endpoint::schema());
        if let Some(RefOr::T(interface)) = link.properties.get_mut("interface") {
            describe(
                interface,
                "The device's name; if left out, the resource's name.",
            );
        }
        link.into()
    }
}

/// Adds the properties of a part. A field that types have in common has the values of all.
fn add_properties(link: &mut Object, part: RefOr<Schema>) {
    let RefOr::T(Schema::Object(part)) = part else {
        return;
    };
    for (name, schema) in part.properties {
        let merged = match link.properties.remove(&name) {
            Some(known) if known != schema => unite(known, schema),
            _ => schema,
        };
        link.properties.insert(name, merged);
    }
}

/// Returns the schema of what fits one of two.
fn unite(one: RefOr<Schema>, other: RefOr<Schema>) -> RefOr<Schema> {
    let mut union = OneOf::new();
    for schema in [one, other] {
        let alternatives = match schema {
            RefOr::T(Schema::OneOf(one_of)) => one_of.items,
            schema => vec![schema],
        };
        for alternative in alternatives {
            if !union.items.contains(&alternative) {
                union.items.push(alternative);
            }
        }
    }
    RefOr::T(Schema::OneOf(union))
}

fn describe(schema: &mut Schema, description: &str) {
    match schema {
        Schema::Object(object) => object.description = Some(description.to_owned()),
        Schema::OneOf(one_of) => one_of.description = Some(description.to_owned()),
        _ => {}
    }
}

impl ToSchema for Link {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        let link_type = <LinkType as ToSchema>::name().into_owned();
        schemas.push((link_type, LinkType::schema()));
        LinkHead::schemas(schemas);
        Endpoint::schemas(schemas);
        for link_type in LinkType::ALL {
            link_type.add_schemas(schemas);
        }
    }
}

impl Resource for Link {
    const KIND: Kind = Kind::Link;
    const ALWAYS_SHOWN: &[&str] = &["name", "type"];
    type Observed = EndpointObserved;

    fn name(&self) -> &Name {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    fn check(&self) -> Result<(), FieldError> {
        check_labels(&self.labels)?;
        check_default_interface(Self::KIND, &self.name, self.device.interface.as_ref())?;
        self.device.check(self.device_name())?;
        self.check_mac()?;
        self.fields.check()
    }

    fn least() -> Value {
        json!({"name": "x", "type": LinkType::ALL[0]})
    }

    fn omit_nested_defaults(spec: &mut Map<String, Value>) {
        static DEVICE: LazyLock<Value> = LazyLock::new(|| default_fields::<Endpoint>(json!({})));

        if spec.get("interface") == spec.get("name") {
            spec.remove("interface");
        }
        omit_defaults(spec, &DEVICE, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_is_read_as_written() {
        let short = json!({"name": "d0", "type": "dummy", "addresses": ["10.9.0.1/32"]});
        let link: Link = parse(&short).unwrap();
        assert_eq!(link.fields.link_type(), LinkType::Dummy);
        assert_eq!(link.device_name(), "d0");
        let whole = serde_json::to_value(&link).unwrap();
        assert_eq!(whole["port"], json!({}));
        assert_eq!(serde_json::from_value::<Link>(whole.clone()).unwrap(), link);
        assert_eq!(crate::sparse(Kind::Link, whole), short);
    }

    #[test]
    fn wrong_field_of_a_link_has_its_pointer() {
        for (body, code, pointer, detail) in [
            (
                json!({"name": "d", "type": "dummy", "colour": 1}),
                Code::UnknownField,
                "/colour",
                "unknown field `colour`, expected one of `name`, `labels`, `type`",
            ),
            (
                json!({"name": "d", "type": "dummy", "addresses": ["10.0.0.1"]}),
                Code::InvalidField,
                "/addresses/0",
                "\"10.0.0.1\" has no prefix length",
            ),
            (
                json!({"name": "d", "type": "carrier-pigeon"}),
                Code::InvalidField,
                "/type",
                "unknown value `carrier-pigeon`, expected",
            ),
            (
                json!({"name": "d"}),
                Code::InvalidField,
                "/type",
                "missing field `type`",
            ),
            (
                json!({"type": "dummy"}),
                Code::InvalidField,
                "/name",
                "missing field `name`",
            ),
        ] {
            let error = parse::<Link>(&body).unwrap_err();
            assert_eq!((error.code, &*error.pointer), (code, pointer), "{body}");
            assert!(error.detail.starts_with(detail), "{}", error.detail);
        }
        let lower = json!({"interface": "eth0"});
        let group = json!(["239.1.1.1"]);
        for (body, code, pointer) in [
            (json!({"type": "macvlan"}), Code::InvalidField, "/lower"),
            (
                json!({"type": "macvlan", "lower": {"interface": "a b"}}),
                Code::InvalidField,
                "/lower/interface",
            ),
            (
                json!({"type": "macvlan", "lower": {"name": "eth0"}}),
                Code::UnknownField,
                "/lower/name",
            ),
            (
                json!({"type": "ipvlan", "lower": lower, "mac": "02:00:00:00:00:01"}),
                Code::InvalidField,
                "/mac",
            ),
            (
                json!({"type": "vlan", "lower": lower, "vlan_id": 4095}),
                Code::InvalidField,
                "/vlan_id",
            ),
            (
                json!({"type": "vxlan", "vni": 0}),
                Code::InvalidField,
                "/vni",
            ),
            (
                json!({"type": "vxlan", "vni": 1, "group": "239.1.1.1"}),
                Code::InvalidField,
                "/group",
            ),
            (
                json!({"type": "vxlan", "vni": 1, "remotes": group}),
                Code::InvalidField,
                "/remotes/0",
            ),
            (
                json!({"type": "vxlan", "vni": 1, "local": "::1", "remotes": ["192.0.2.1"]}),
                Code::InvalidField,
                "/remotes/0",
            ),
            (
                json!({"type": "vxlan", "vni": 1, "underlay": "a", "lower": lower}),
                Code::InvalidField,
                "/lower/namespace",
            ),
        ] {
            let mut whole = body.clone();
            whole["name"] = "l0".into();
            let error = parse::<Link>(&whole)
                .and_then(|link| link.check())
                .unwrap_err();
            assert_eq!((error.code, &*error.pointer), (code, pointer), "{body}");
        }
        // In a document the pointer begins at its top.
        let body = json!({"links": [{"name": "d", "type": "dummy", "mtu": "x"}]});
        let error = parse::<crate::Topology>(&body).unwrap_err();
        assert_eq!(error.pointer, "/links/0/mtu");
    }
}
