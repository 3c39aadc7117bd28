#compdef netnsctl
# Completion of netnsctl for zsh.
_netnsctl() {
    local -a lines words_ open_
    lines=("${(@f)$(_CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$((CURRENT - 1)) COMPLETE=zsh \
        netnsctl -- "${words[@]}" 2>/dev/null)}")
    # A place such as net0: and a directory go on without a space.
    local line value
    for line in $lines; do
        value=${${line//\\:/$'\1'}%%:*}
        if [[ $value == *[$'\1'/=] ]]; then
            open_+=("$line")
        else
            words_+=("$line")
        fi
    done
    ((${#open_})) && _describe -V values open_ -S ''
    ((${#words_})) && _describe -V values words_
}
compdef _netnsctl netnsctl
