"""A certificate authority of a drill's, or a test's, own, whose certificates live as long as it wants."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drills.rig.issuer import replace_file

SERVER_NAME = "muster"
_AUTHORITY_LIVES_S = 365 * 86_400.0


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Authority:
    """Signs certificates into files. folder: there before one is signed. name: of its own certificate."""

    folder: Path
    name: str = "authority"
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False
    )

    @property
    def path(self) -> Path:
        """Its own certificate, for `tls_ca`."""
        return self.folder / f"{self.name}.pem"

    def publish(self) -> None:
        """Writes its own certificate."""
        made = self._builder(self.name, self.key, _AUTHORITY_LIVES_S).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        signed = made.sign(self.key, hashes.SHA256())
        replace_file(self.path, signed.public_bytes(serialization.Encoding.PEM))

    def paths(self, name: str) -> tuple[Path, Path]:
        """Where certificate and key of this name are."""
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def sign(self, name: str, life_s: float, *, dns: str = SERVER_NAME, client: bool = False) -> int:
        """A new certificate with a new key, in place of those there; also good for the loopback.

        dns: the name that it is for. client: its owner may also show it when it calls. Returns when it
        ends, Unix seconds.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usage = [ExtendedKeyUsageOID.SERVER_AUTH] + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        addresses = [x509.DNSName(dns), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            self._builder(name, key, life_s)
            .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        certificate_path, key_path = self.paths(name)
        # In between the two do not fit together, and replicas keep what they have.
        replace_file(key_path, secret)
        replace_file(certificate_path, made.public_bytes(serialization.Encoding.PEM))
        return int(made.not_valid_after_utc.timestamp())

    def believed(self) -> ssl.SSLContext:
        """What a client of HTTP/2 that believes this authority connects with."""
        context = ssl.create_default_context(cafile=str(self.path))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"])
        return context

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey, life_s: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(seconds=life_s))
        )


def ends_unix_s(der: bytes) -> int:
    """When a certificate ends, Unix seconds."""
    return int(x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp())
