"""The permitted values of GLUE 2.0, as EGI's profile has them.

Sources: GFD.147, appendix B, and the types of glue-validator 2.1.0 (``egi_glue2``), the program
with which EGI checks the BDIIs of its sites. Its vocabularies of services and interfaces are those
of 2013 and know no cloud.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUALITY_LEVELS = ("development", "pre-production", "production", "testing")
TECHNOLOGIES = ("corba", "jndi", "webservice")

CAPABILITIES = _words(
    """
    data.access.flatfiles data.access.relational data.access.sessiondir data.access.stageindir
    data.access.stageoutdir data.access.xml data.management.replica data.management.storage
    data.management.transfer data.naming.resolver data.naming.scheme data.transfer
    data.transfer.cepull data.transfer.cepull.ftp data.transfer.cepush data.transfer.cepush.srm
    executionmanagement.candidatesetgenerator executionmanagement.dynamicvmdeploy
    executionmanagement.executionandplanning executionmanagement.jobcreation
    executionmanagement.jobdescription executionmanagement.jobexecution
    executionmanagement.jobmanagement executionmanagement.jobmanager
    executionmanagement.reservation information.discovery information.discovery.job
    information.discovery.resource information.logging information.lookup.job information.model
    information.monitoring information.provenance information.publication information.query
    information.query.xpath1 notification security.accounting security.attributeauthority
    security.authentication security.authorization security.credentialstorage
    security.delegation security.identitymapping
    """
)

_SERVICE_TYPES = """
    APEL BDII CE DPM GUMS GridCat MDS-GIIS MyProxy Nagios National-NAGIOS OpenSSH Project-NAGIOS
    Regional-NAGIOS SGAS SRM UI VOBOX bdii_site bdii_top castor data-location-interface dpm
    edu.caltech.cacr.monalisa egi.GRIDVIEW egi.GSTAT egi.MetricsPortal egi.NetworkPortal
    egi.OpsPortal eos eu.egi.APELRepository eu.egi.AccountingPortal eu.egi.GGUS eu.egi.GOCDB
    eu.egi.MSGBroker eu.unicore.USE gLExec gLite-APEL gridmap-file gsiftp it.infn.GridICE
    lcg-file-catalog lcg-local-file-catalog local-data-location-interface msg.broker.openwire
    msg.broker.openwire-ssl msg.broker.rest msg.broker.stomp msg.broker.stomp-ssl ngi.OpsPortal
    org.dcache.storage org.edg.gatekeeper org.glite.AMGA org.glite.Argus org.glite.ChannelAgent
    org.glite.ChannelManagement org.glite.Delegation org.glite.FileTransfer
    org.glite.FileTransferStats org.glite.FiremanCatalog org.glite.KeyStore org.glite.Metadata
    org.glite.RTEPublisher org.glite.SEIndex org.glite.argus org.glite.ce.CREAM
    org.glite.ce.Monitor org.glite.fts org.glite.lb org.glite.lb.Server org.glite.rgma.Browser
    org.glite.rgma.OnDemandProducer org.glite.rgma.PrimaryProducer org.glite.rgma.Registry
    org.glite.rgma.Schema org.glite.rgma.SecondaryProducer org.glite.voms org.glite.voms-admin
    org.glite.wms org.glite.wms.WMProxy org.irods.irods3 org.lcg.Frontier org.lcg.Squid
    org.nordugrid.arex org.nordugrid.execution.arex org.nordugrid.information.egiis
    org.nordugrid.isis org.nordugrid.storage org.ogf.bes.BESFactory org.ogf.bes.BESManagement
    org.ogf.glue.emir org.qcg.broker org.qcg.computing org.qcg.notification other
    pbs.torque.maui pbs.torque.server storm unicore6.Registry unicore6.ServiceOrchestrator
    unicore6.StorageFactory unicore6.StorageManagement unicore6.TargetSystemFactory
    unicore6.UVOSAssertionQueryService unicore6.WorkflowFactory xroot
    """
_SCHEMES = """
    dcap ftp ftps gsidcap gsiftp gsissh http httpg https ldap lfc myproxy rfio sftp voms xroot
    """
_INTERFACES = """
    ogf.bes ogf.srm org.glite.Argus.PAP org.glite.Argus.PDP org.glite.Argus.PEP
    org.glite.ce.ApplicationPublisher org.nordugrid.gridftpjob org.nordugrid.ldapglue1
    org.nordugrid.ldapglue2 org.nordugrid.ldapng org.nordugrid.wsrfglue2 org.oasis.notification
    org.ogf.bes org.ogf.glue.emies.activitycreation org.ogf.glue.emies.activityinfo
    org.ogf.glue.emies.activitymanagement org.ogf.glue.emies.delegation
    org.ogf.glue.emies.resourceinfo org.qcg.broker rfio webdav xroot
    """
_WORDS: Mapping[str, frozenset[str]] = {
    "Capability": CAPABILITIES,
    "ServiceType": _words(_SERVICE_TYPES),
    "InterfaceName": _words(f"{_INTERFACES} {_SERVICE_TYPES} {_SCHEMES}"),
    "QualityLevel": frozenset(QUALITY_LEVELS),
    "HealthState": _words("critical ok other unknown warning"),
    "ServingState": _words("closed draining production queueing"),
    "Technology": frozenset(TECHNOLOGIES),
    "StorageCapacity": _words("cache installednearline installedonline nearline offline online"),
    "StorageAccessProtocol": _words(
        "afs dcap file gsidcap gsiftp gsirfio http https nfs rfio root webdav xroot"
    ),
    "PolicyScheme": _words("basic gacl org.glite.standard"),
    "Platform": _words("amd64 i386 i686 itanium powerpc sparc x86_64"),
    "OSFamily": _words("linux macosx solaris windows"),
    "OSName": _words(
        """
        AIX CentOS Debian Fedoracore Gentoo Leopard Linux-rocks Mandrake RedhatEnterpriseAS
        ScientificCERNSLC ScientificSL Ubuntu
        """
    )
    | {"Microsoft WINDOWS", "SUSE LINUX"},
    "CPUMultiplicity": _words(
        "multicpu-multicore multicpu-singlecore singlecpu-multicore singlecpu-singlecore"
    ),
}
OS_NAMES = _WORDS["OSName"]
OS_FAMILIES = _WORDS["OSFamily"]

# The profile's host needs a top-level domain of letters, or an address of IPv4.
_URL = re.compile(
    r"(?P<scheme>[a-z0-9+.-]+)://(?:[a-zA-Z0-9._-]+\.[a-zA-Z]{2,6}|[0-9]{1,3}(?:\.[0-9]{1,3}){3})"
)
_TIME = re.compile(
    r"-?[0-9]{4}-(?:0[0-9]|1[0-2])-(?:[0-2][0-9]|3[01])T(?:[01][0-9]|2[0-3])"
    r":[0-5][0-9]:[0-5][0-9]Z?"
)
# The digits of 2**64; Python rejects texts of some thousand.
_MOST_DIGITS = 20
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def _is_url(value: str) -> bool:
    found = _URL.match(value)
    return found is not None and found["scheme"] in _SCHEMES.split()


def _is_whole(value: str, bits: int) -> bool:
    is_number = value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS
    return is_number and int(value) < 2**bits


_SHAPES: Mapping[str, Callable[[str], bool]] = {
    "Text": lambda value: value != "",
    "URL": _is_url,
    "DateTime": lambda value: _TIME.fullmatch(value) is not None,
    "Real32": lambda value: _NUMBER.fullmatch(value) is not None,
    "UInt32": lambda value: _is_whole(value, 32),
    "UInt64": lambda value: _is_whole(value, 64),
    "Boolean": lambda value: value.lower() in {"false", "true", "undefined"},
    "ContactType": lambda value: (
        value.lower() in {"general", "security", "sysadmin", "usersupport"}
    ),
}


def is_of_type(name: str, value: str) -> bool:
    """Check whether a value is of a type of the profile, such as ``URL`` or ``OSName``."""
    words = _WORDS.get(name)
    return value in words if words is not None else _SHAPES[name](value)
