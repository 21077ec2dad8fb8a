"""ActiveMQ from Debian, run without its service: STOMP over TLS, and a plain port for probes.

The TLS door demands a client certificate of the grid's authority. A copy of each message that is
sent to the queue ``accounting`` goes to the queue ``accounting.copy``, so that somebody else can
count. Messages sent as persistent are on disk before the broker gives a receipt; they survive
`Broker.kill`.
"""

from __future__ import annotations

import shutil
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from appliance.core.run.errors import LocalFailure
from tests.testbed import secrets
from tests.testbed.layout import HOST, Layout
from tests.testbed.pki import Authority, Credential
from tests.testbed.processes import Records, require_free
from tests.testbed.trust import Trust

QUEUE = "accounting"
COPIES = "accounting.copy"

_HOME = Path("/usr/share/activemq")
_JAVA = Path("/usr/share/java")
_LOG4J = ("log4j-1.2.jar", "slf4j-log4j12.jar")
"""Two bindings of the logging interface would clash: slf4j-simple, to standard error, stays."""
_CLIENT_SECONDS = 5

_XML = """\
<beans xmlns="http://www.springframework.org/schema/beans"
       xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="
         http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
         http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="testbed" useJmx="false"
      dataDirectory={data}>
    <destinationInterceptors>
      <virtualDestinationInterceptor>
        <virtualDestinations>
          <compositeQueue name={queue} forwardOnly="false">
            <forwardTo><queue physicalName={copies}/></forwardTo>
          </compositeQueue>
        </virtualDestinations>
      </virtualDestinationInterceptor>
    </destinationInterceptors>
    <destinationPolicy>
      <policyMap><policyEntries>
        <policyEntry queue="&gt;" memoryLimit="64mb" producerFlowControl="true"/>
      </policyEntries></policyMap>
    </destinationPolicy>
    <persistenceAdapter>
      <kahaDB directory={journal} journalMaxFileLength="32mb"/>
    </persistenceAdapter>
    <sslContext>
      <sslContext keyStore={key_store} keyStoreType="PKCS12" keyStorePassword={password}
                  trustStore={trust_store} trustStoreType="PKCS12" trustStorePassword={password}/>
    </sslContext>
    <systemUsage>
      <systemUsage>
        <memoryUsage><memoryUsage limit="256 mb"/></memoryUsage>
        <storeUsage><storeUsage limit="8 gb"/></storeUsage>
        <tempUsage><tempUsage limit="1 gb"/></tempUsage>
      </systemUsage>
    </systemUsage>
    <transportConnectors>
      <transportConnector name="tls" uri={tls}/>
      <transportConnector name="plain" uri={plain}/>
    </transportConnectors>
  </broker>
</beans>
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """The message broker of one instance."""

    layout: Layout
    trust: Trust

    @property
    def host(self) -> str:
        """Name to connect to; the broker's certificate is for it."""
        return "localhost"

    @property
    def tls_port(self) -> int:
        """Port of STOMP over TLS."""
        return self.layout.port("broker-tls")

    @property
    def plain_port(self) -> int:
        """Port of STOMP without TLS, for the probes of tests."""
        return self.layout.port("broker-plain")

    @property
    def _records(self) -> Records:
        return Records(self.layout.run)

    def is_running(self) -> bool:
        """Tell whether its process lives."""
        return self._records.find("broker") is not None

    def start(self) -> None:
        """Start the broker unless it runs; return when it answers STOMP at both doors.

        :raises LocalFailure: the Debian package is missing
        :raises Unavailable: it does not come up
        """
        if self.is_running() and self.answers():
            return
        self.stop()  # one that lives and does not answer
        for port in (self.tls_port, self.plain_port):
            require_free(port, "broker")
        self._configure()
        output = self.layout.log / "broker.log"
        self._records.start("broker", command=self._command(), output=output)
        self._records.await_ready("broker", ready=self.answers, remedy=f"see {output}")

    def kill(self) -> None:
        """Kill it (SIGKILL), as a power cut would."""
        self._records.kill("broker")

    def stop(self) -> None:
        """Stop it in good order."""
        self._records.stop(["broker"])

    def forget(self) -> None:
        """Drop all queues with their messages; a running broker is restarted for it."""
        was_running = self.is_running()
        self.stop()
        shutil.rmtree(self.layout.data("broker"), ignore_errors=True)
        if was_running:
            self.start()

    def answers(self) -> bool:
        """Tell whether a STOMP client is let in, over TLS and without."""
        try:
            with socket.create_connection((HOST, self.plain_port), _CLIENT_SECONDS) as plain:
                if not _is_let_in(plain):
                    return False
            client = self.trust.host("probe")
            context = ssl.create_default_context(cafile=str(self.trust.grid.certificate))
            context.load_cert_chain(client.certificate, client.key)
            with (
                socket.create_connection((HOST, self.tls_port), _CLIENT_SECONDS) as raw,
                context.wrap_socket(raw, server_hostname=self.host) as tls,
            ):
                return _is_let_in(tls)
        except OSError:
            return False

    def _configure(self) -> None:
        if not (_HOME / "lib").is_dir():
            raise LocalFailure(_HOME, "ActiveMQ is not installed", "run: apt-get install activemq")
        directory = self.layout.configuration("broker")
        for path in (directory, self.layout.log, self.layout.data("broker")):
            path.mkdir(parents=True, exist_ok=True)
        password = secrets.password(self.layout.secrets, "broker-stores")
        _write_stores(
            directory, password, credential=self.trust.host("broker"), authority=self.trust.grid
        )
        values = {
            "data": self.layout.data("broker"),
            "journal": self.layout.data("broker") / "kahadb",
            "key_store": f"file:{directory / 'key.p12'}",
            "trust_store": f"file:{directory / 'trust.p12'}",
            "password": password,
            "queue": QUEUE,
            "copies": COPIES,
            "tls": f"stomp+ssl://{HOST}:{self.tls_port}?needClientAuth=true&transport.hbGracePeriodMultiplier=1.5",
            "plain": f"stomp://{HOST}:{self.plain_port}",
        }
        quoted = {key: quoteattr(str(value)) for key, value in values.items()}
        secrets.write_private(directory / "activemq.xml", _XML.format_map(quoted))

    def _command(self) -> list[str]:
        jars = [
            *(_HOME / "lib").glob("*.jar"),
            *(_HOME / "lib/optional").glob("*.jar"),
            _JAVA / "slf4j-simple.jar",
        ]
        return [
            "java",
            "-Xms64m",
            "-Xmx1024m",
            "-XX:+UseSerialGC",
            # starts in half the processor time, which tests that kill it pay each time
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
            f"-Dactivemq.base={self.layout.configuration('broker')}",
            f"-Dactivemq.data={self.layout.data('broker')}",
            f"-Dactivemq.home={_HOME}",
            f"-Djava.io.tmpdir={self.layout.data('broker')}",
            "-cp",
            ":".join(str(jar) for jar in jars if jar.name not in _LOG4J),
            "org.apache.activemq.console.Main",
            "start",
            f"xbean:file:{self.layout.configuration('broker') / 'activemq.xml'}",
        ]


def _is_let_in(connection: socket.socket) -> bool:
    connection.settimeout(_CLIENT_SECONDS)
    connection.sendall(b"CONNECT\naccept-version:1.2\nhost:localhost\n\n\0")
    return connection.recv(64).startswith(b"CONNECTED\n")


def _write_stores(
    directory: Path, password: str, *, credential: Credential, authority: Authority
) -> None:
    protection = BestAvailableEncryption(password.encode())
    key = serialization.load_pem_private_key(credential.key.read_bytes(), password=None)
    certificate = x509.load_pem_x509_certificate(credential.certificate.read_bytes())
    trusted = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    stores = {
        "key.p12": pkcs12.serialize_key_and_certificates(
            b"broker",
            key,  # type: ignore[arg-type]  # RSA, as issued
            certificate,
            [trusted],
            protection,
        ),
        "trust.p12": pkcs12.serialize_java_truststore(
            [pkcs12.PKCS12Certificate(trusted, b"grid")], protection
        ),
    }
    for name, data in stores.items():
        (directory / name).write_bytes(data)
