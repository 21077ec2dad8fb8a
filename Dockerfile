# The images of the appliance. scripts/build makes the context: a base, a wheelhouse and Debian
# packages. The build runs without network. It uses only what all builders have: the engine's own
# one, BuildKit, podman. All files get the time EPOCH: the same sources give the same layers, which
# an upgrade does not store twice.
ARG BASE
FROM ${BASE} AS unpack
ARG EPOCH
COPY unpack debs/ /w/
RUN sh /w/unpack /slapd /w/slapd/*.deb \
 && sh /w/unpack /qemu /w/qemu/*.deb \
 && rm -rf /qemu/usr/bin/qemu-io /qemu/usr/bin/qemu-nbd /qemu/usr/sbin /qemu/usr/share/qemu \
 && rm -rf /slapd/etc/ldap/slapd.d /slapd/etc/default /slapd/etc/apparmor.d \
 && rm -rf /slapd/usr/share/slapd /slapd/usr/share/perl* \
 && find /slapd/usr/lib/ldap -mindepth 1 ! -name 'back_mdb*' ! -name 'back_null*' -delete \
 && find /slapd/etc/ldap/schema -type f ! -name core.schema ! -name cosine.schema \
      ! -name GLUE20.schema -delete \
 && install -d /slapd/etc/bdii /slapd/etc/glite-info-static/site \
 && ln -s /etc/sitebdii /slapd/etc/bdii/gip \
 && ln -s /etc/sitebdii/site.cfg /slapd/etc/glite-info-static/site/site.cfg \
 && find /slapd /qemu -exec touch -h -d "@$EPOCH" {} +

FROM ${BASE} AS libraries
ARG EPOCH
COPY wheelhouse/ /w/wheelhouse/
COPY requirements/ /w/requirements/
COPY deploy/ /w/deploy/
RUN cd /w && python3 -m deploy.assemble libraries /w/wheelhouse /w/requirements \
 && find /layers -exec touch -h -d "@$EPOCH" {} +

FROM ${BASE} AS programs
ARG EPOCH
COPY deploy/ /w/deploy/
COPY own/ /w/own/
COPY provider grpc-answers /w/
RUN cd /w && python3 -m deploy.assemble programs /w/own/*.whl \
 && install -D provider /layers/cloudbdii/var/lib/bdii/gip/provider/cloud-info-provider \
 && install -D -m 644 grpc-answers /layers/cloudkeeper-os/usr/lib/fedcloud/grpc-answers \
 && find /layers -exec touch -h -d "@$EPOCH" {} +

# The common part of all images. Authorities are mounted from the host, because those of an image
# would become stale.
FROM ${BASE} AS plain
ENV PATH=/opt/fedcloud/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 1999:1999
WORKDIR /var/lib/fedcloud

FROM plain AS common
COPY --from=libraries /layers/common/ /

FROM common AS openstack
COPY --from=libraries /layers/openstack/ /

FROM openstack AS caso
COPY --from=libraries /layers/caso/ /
COPY --from=programs /layers/caso/ /
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="egifedcloud/caso" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
CMD ["caso-extract"]

FROM common AS ssm
COPY --from=libraries /layers/ssm/ /
COPY --from=programs /layers/ssm/ /
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="egifedcloud/ssm" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
CMD ["ssmsend"]

FROM openstack AS cloud-info
COPY --from=libraries /layers/cloud-info/ /
COPY --from=programs /layers/cloud-info/ /
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="egifedcloud/cloud-info" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
CMD ["cloud-info-provider-service"]

FROM openstack AS cloudbdii
COPY --from=unpack /slapd/ /
COPY --from=libraries /layers/cloudbdii/ /
COPY --from=programs /layers/cloudbdii/ /
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="egifedcloud/cloudbdii" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
EXPOSE 2170
# As strangers ask: anonymously, over TCP. The address differs by network, so slapd's URL is in a file.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "exec ldapsearch -x -LLL -o nettimeout=4 -s base -b o=glue \
         -H \"$(cat /var/lib/fedcloud/bdii/resource/run/address)\" 1.1"]
CMD ["bdii-update", "--serve", "-c", "/etc/bdii/bdii.conf"]

FROM plain AS sitebdii
COPY --from=unpack /slapd/ /
COPY --from=libraries /layers/sitebdii/ /
COPY --from=programs /layers/sitebdii/ /
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="egifedcloud/sitebdii" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
EXPOSE 2170
# As strangers ask: anonymously, over TCP. The address differs by network, so slapd's URL is in a file.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "exec ldapsearch -x -LLL -o nettimeout=4 -s base -b o=glue \
         -H \"$(cat /var/lib/fedcloud/bdii/site/run/address)\" 1.1"]
CMD ["bdii-update", "--serve", "-c", "/etc/sitebdii/bdii.conf"]

FROM common AS cloudkeeper
COPY --from=unpack /qemu/ /
COPY --from=libraries /layers/cloudkeeper/ /
COPY --from=programs /layers/cloudkeeper/ /
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="egifedcloud/cloudkeeper" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
CMD ["cloudkeeper", "sync"]

FROM openstack AS cloudkeeper-os
COPY --from=libraries /layers/cloudkeeper-os/ /
COPY --from=programs /layers/cloudkeeper-os/ /
ARG VERSION
ARG COMMIT
LABEL org.opencontainers.image.title="egifedcloud/cloudkeeper-os" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-IS", "/usr/lib/fedcloud/grpc-answers", "/run/cloudkeeper/backend.sock"]
CMD ["cloudkeeper-os", "--grpc-socket", "/run/cloudkeeper/backend.sock"]
