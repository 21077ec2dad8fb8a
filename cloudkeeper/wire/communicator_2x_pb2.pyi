from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Appliance(_message.Message):
    __slots__ = ("identifier", "title", "description", "mpuri", "group", "ram", "core", "version", "architecture", "operating_system", "vo", "expiration_date", "image_list_identifier", "base_mpuri", "appid", "digest", "image")
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    MPURI_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    RAM_FIELD_NUMBER: _ClassVar[int]
    CORE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    OPERATING_SYSTEM_FIELD_NUMBER: _ClassVar[int]
    VO_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_DATE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_LIST_IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    BASE_MPURI_FIELD_NUMBER: _ClassVar[int]
    APPID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    identifier: str
    title: str
    description: str
    mpuri: str
    group: str
    ram: int
    core: int
    version: str
    architecture: str
    operating_system: str
    vo: str
    expiration_date: int
    image_list_identifier: str
    base_mpuri: str
    appid: str
    digest: str
    image: Image
    def __init__(self, identifier: _Optional[str] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., mpuri: _Optional[str] = ..., group: _Optional[str] = ..., ram: _Optional[int] = ..., core: _Optional[int] = ..., version: _Optional[str] = ..., architecture: _Optional[str] = ..., operating_system: _Optional[str] = ..., vo: _Optional[str] = ..., expiration_date: _Optional[int] = ..., image_list_identifier: _Optional[str] = ..., base_mpuri: _Optional[str] = ..., appid: _Optional[str] = ..., digest: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("mode", "location", "format", "uri", "checksum", "size", "username", "password", "digest")
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LOCAL: _ClassVar[Image.Mode]
        REMOTE: _ClassVar[Image.Mode]
    LOCAL: Image.Mode
    REMOTE: Image.Mode
    class Format(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RAW: _ClassVar[Image.Format]
        OVA: _ClassVar[Image.Format]
        QCOW2: _ClassVar[Image.Format]
        VMDK: _ClassVar[Image.Format]
    RAW: Image.Format
    OVA: Image.Format
    QCOW2: Image.Format
    VMDK: Image.Format
    MODE_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    mode: Image.Mode
    location: str
    format: Image.Format
    uri: str
    checksum: str
    size: int
    username: str
    password: str
    digest: str
    def __init__(self, mode: _Optional[_Union[Image.Mode, str]] = ..., location: _Optional[str] = ..., format: _Optional[_Union[Image.Format, str]] = ..., uri: _Optional[str] = ..., checksum: _Optional[str] = ..., size: _Optional[int] = ..., username: _Optional[str] = ..., password: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...
