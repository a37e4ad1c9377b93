//! What S3 servers differ in, as one table: found by the endpoint's host, the option `service`, or what the server calls
//! itself. A server that is not known gets the careful row: MD5, which all of them check, and looking before changing.
//!
//! A row says only what was read in the server's documentation or source, or seen on one of its releases.

use super::digest::Algorithm;

/// How one kind of server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// As the option `service` names it.
    pub name: &'static str,
    /// Ends of host names that are this service's.
    hosts: &'static [&'static str],
    /// Beginning of what it says in the header `Server`.
    says: &'static str,
    /// Signed for where none is given.
    pub region: &'static str,
    pub path_style: bool,
    /// The digest it checks on each part.
    pub checksum: Algorithm,
    /// Whether a digest may follow the body (`aws-chunked`): parts too large for memory are then read only once.
    pub trailers: bool,
    /// `If-None-Match: *` and `If-Match` on PutObject and CompleteMultipartUpload.
    pub conditional_write: bool,
    /// `If-Match` on DeleteObject.
    pub conditional_delete: bool,
    /// DeleteObjects, with the digests this client sends.
    pub batch_delete: bool,
    pub object_lock: bool,
    /// Longest component of a key, bytes; 0 for none but the key's own 1,024.
    pub longest_name: u32,
}

const CAREFUL: Service = Service {
    name: "other",
    hosts: &[],
    says: "\0",
    region: "us-east-1",
    path_style: true,
    checksum: Algorithm::Md5,
    trailers: false,
    conditional_write: false,
    conditional_delete: false,
    batch_delete: false,
    object_lock: false,
    longest_name: 0,
};

pub const SERVICES: &[Service] = &[
    Service {
        name: "aws",
        hosts: &[".amazonaws.com", ".amazonaws.com.cn"],
        says: "AmazonS3",
        path_style: false,
        checksum: Algorithm::Crc64Nvme,
        trailers: true,
        conditional_write: true,
        conditional_delete: true,
        batch_delete: true,
        object_lock: true,
        ..CAREFUL
    },
    // CRC64NVME since RELEASE.2025-02; older ones: option `checksum = "crc32c"`.
    Service {
        name: "minio",
        says: "MinIO",
        checksum: Algorithm::Crc64Nvme,
        trailers: true,
        conditional_write: true,
        batch_delete: true,
        object_lock: true,
        longest_name: 255,
        ..CAREFUL
    },
    // 2.x: whole-object CRC64NVME, no conditional writes, no versions, no locks.
    Service {
        name: "garage",
        region: "garage",
        checksum: Algorithm::Crc64Nvme,
        trailers: true,
        batch_delete: true,
        ..CAREFUL
    },
    // CRC64NVME came with Tentacle (20); MD5 is right with every release.
    Service { name: "ceph", says: "Ceph Object Gateway", object_lock: true, ..CAREFUL },
    Service {
        name: "r2",
        hosts: &[".r2.cloudflarestorage.com"],
        region: "auto",
        checksum: Algorithm::Crc64Nvme,
        batch_delete: true,
        ..CAREFUL
    },
    Service { name: "wasabi", hosts: &[".wasabisys.com"], says: "WasabiS3", object_lock: true, ..CAREFUL },
    Service { name: "b2", hosts: &[".backblazeb2.com"], object_lock: true, ..CAREFUL },
    CAREFUL,
];

/// The row of that name.
pub fn named(name: &str) -> Option<Service> {
    SERVICES.iter().find(|s| s.name == name).copied()
}

/// Amazon's own.
pub fn aws() -> Service {
    SERVICES[0]
}

/// The row that an endpoint's host name tells; `None` when it tells nothing.
pub fn of_host(host: &str) -> Option<Service> {
    let host = host.to_ascii_lowercase();
    SERVICES.iter().find(|s| s.hosts.iter().any(|end| host.ends_with(end))).copied()
}

/// The row for what a server calls itself.
pub fn of_server(server: &str) -> Service {
    SERVICES.iter().find(|s| !s.says.is_empty() && server.starts_with(s.says)).copied().unwrap_or(CAREFUL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_server_headers_tell_the_service() {
        for (host, name) in [
            ("s3.eu-west-1.amazonaws.com", Some("aws")),
            ("S3.CN-NORTH-1.amazonaws.com.cn", Some("aws")),
            ("abc.r2.cloudflarestorage.com", Some("r2")),
            ("s3.eu-central-1.wasabisys.com", Some("wasabi")),
            ("s3.us-west-004.backblazeb2.com", Some("b2")),
            ("127.0.0.1", None),
            ("notamazonaws.com", None),
        ] {
            assert_eq!(of_host(host).map(|s| s.name), name, "{host}");
        }
        for (server, name) in [
            ("MinIO", "minio"),
            ("AmazonS3", "aws"),
            ("WasabiS3/7.1", "wasabi"),
            ("", "other"),
            ("nginx", "other"),
            // Before any server at all.
            ("cloudflare", "other"),
        ] {
            assert_eq!(of_server(server).name, name, "{server}");
        }
    }

    #[test]
    fn an_unknown_server_gets_what_all_of_them_can() {
        let other = of_server("something new");
        assert_eq!(other.checksum, Algorithm::Md5);
        assert!(!other.conditional_write && !other.trailers && !other.batch_delete && other.path_style);
    }

    #[test]
    fn the_schema_offers_every_service() {
        let schema: serde_json::Value = serde_json::from_str(include_str!("../options.schema.json")).unwrap();
        let offered: Vec<_> = schema["properties"]["service"]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|v| v.as_str())
            .collect();
        let mut rows = vec!["auto"];
        rows.extend(SERVICES.iter().map(|s| s.name));
        assert_eq!(offered, rows);
    }
}
