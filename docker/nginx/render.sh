#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Writes FOLDER/flagtriton.conf from the template beside this script, and an empty FOLDER/tokens.conf where none is.
#
#   render.sh FOLDER                                # then: nginx -p FOLDER -c flagtriton.conf -g 'daemon off;'
#
# Every setting is an environment variable of the name below. File names are relative to FOLDER.
set -eu

folder=${1:?"usage: $0 FOLDER"}

: "${FLAGTRITON_HTTPS_LISTEN:=8443}"                 # port, or address:port
: "${FLAGTRITON_GRPCS_LISTEN:=8444}"
: "${FLAGTRITON_HTTP_UPSTREAM:=127.0.0.1:8000}"      # Triton
: "${FLAGTRITON_GRPC_UPSTREAM:=127.0.0.1:8001}"
: "${FLAGTRITON_CERTIFICATE:=certificate.pem}"       # with its chain
: "${FLAGTRITON_CERTIFICATE_KEY:=key.pem}"
: "${FLAGTRITON_TOKENS:=tokens.conf}"
: "${FLAGTRITON_ACCESS_LOG:=access.log}"
: "${FLAGTRITON_MAX_BODY:=64m}"
: "${FLAGTRITON_SENDER_TIMEOUT:=20s}"                # silence of a client that is sending
: "${FLAGTRITON_ANSWER_TIMEOUT:=300s}"               # silence of Triton
: "${FLAGTRITON_RATE:=}"                             # e.g. 50r/s for each token's name; empty sets no limit
: "${FLAGTRITON_BURST:=100}"                         # requests beyond the rate that pass at once
: "${FLAGTRITON_CLIENT_CA:=}"                        # authority of client certificates; empty asks for none
export FLAGTRITON_HTTPS_LISTEN FLAGTRITON_GRPCS_LISTEN FLAGTRITON_HTTP_UPSTREAM FLAGTRITON_GRPC_UPSTREAM
export FLAGTRITON_CERTIFICATE FLAGTRITON_CERTIFICATE_KEY FLAGTRITON_TOKENS FLAGTRITON_ACCESS_LOG FLAGTRITON_MAX_BODY
export FLAGTRITON_SENDER_TIMEOUT FLAGTRITON_ANSWER_TIMEOUT FLAGTRITON_RATE FLAGTRITON_BURST FLAGTRITON_CLIENT_CA

# What stands before the lines of an option that is off.
export FLAGTRITON_IF_RATE="" FLAGTRITON_IF_CLIENT_CA=""
[ -n "$FLAGTRITON_RATE" ] || FLAGTRITON_IF_RATE="# "
[ -n "$FLAGTRITON_CLIENT_CA" ] || FLAGTRITON_IF_CLIENT_CA="# "

mkdir -p "$folder"
names=$(env | sed -n 's/^\(FLAGTRITON_[A-Z_]*\)=.*/${\1}/p')  # nginx's own $names stay
envsubst "$names" < "$(dirname "$0")/flagtriton.conf.template" > "$folder/flagtriton.conf"
[ -e "$folder/tokens.conf" ] || (umask 077 && : > "$folder/tokens.conf")
